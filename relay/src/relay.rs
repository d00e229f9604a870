//! From the outbox to the stream: one active relay a shard, any number standing by.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::stream::Stream;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _};
use serde::Deserialize;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use ulid::Ulid;
use uuid::Uuid;

use crate::event::StoredEvent;
use crate::leadership;
use crate::outlet::{Outlet, Shard};
use crate::retry::Retry;
use crate::stream::{self, StreamError};

/// Rows read at a time.
const BATCH_ROWS: i64 = 500;
/// Published and not yet known to be stored, at the most. Servers from 2.11 on refuse more than
/// 10,000 messages waiting for one stream.
const IN_FLIGHT_MAX: i64 = 4_000;
/// One message in so many asks for an acknowledgement, and the last of each batch. Since each
/// message is stored only behind its predecessor, the acknowledgement of one is that of all before.
const ACKNOWLEDGED_EVERY: i64 = 100;
/// No acknowledgement for so long, and the relay asks the stream where it ends.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a relay that has nothing to publish asks where the stream ends: it may be lost.
const STREAM_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How often a relay that waits looks whether it is still connected.
const CONNECTION_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// A batch that is not full is followed by the next no sooner than this: under load a few large
/// batches cost less than many small ones, here and in the server.
const PACE: Duration = Duration::from_millis(10);
/// Polling of an empty outbox, when nobody in this process wakes the relay.
const IDLE_FIRST: Duration = Duration::from_millis(2);
const IDLE_LONGEST: Duration = Duration::from_millis(50);

/// Copies one shard of an outbox into its stream.
#[derive(Debug)]
pub struct Relay {
    outlet: Outlet,
    shard: Shard,
    replicas: usize,
    database: PgConnectOptions,
    nats: Client,
    wake: Arc<Notify>,
    status: watch::Sender<RelayStatus>,
}

/// What a relay says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayStatus {
    /// It is the active one of its shard.
    pub leads: bool,
    /// The last position that the stream has confirmed.
    pub stored: i64,
    /// Events that it put into the stream once more because the stream had lost them.
    pub healed: i64,
    /// Why it stopped. Somebody has to decide; nothing is guessed.
    pub halted: Option<String>,
}

/// Why a relay starts over, or stops.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("read the outbox")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("position {position} was not stored: {reason}")]
    Refused { position: i64, reason: String },
    #[error("{0}")]
    Halted(String),
}

impl Relay {
    /// A relay of `shard`. `wake` is notified by whoever appends in the same process; without
    /// that the relay finds new events by polling, within 50 ms.
    #[must_use]
    pub fn new(
        outlet: Outlet,
        shard: Shard,
        replicas: usize,
        database: PgConnectOptions,
        nats: Client,
        wake: Arc<Notify>,
    ) -> Self {
        let status = watch::Sender::default();
        Self { outlet, shard, replicas, database, nats, wake, status }
    }

    /// What this relay says of itself, now and whenever it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RelayStatus> {
        self.status.subscribe()
    }

    /// Relays until it is dropped, which is safe at any point.
    pub async fn run(&self) -> Infallible {
        let mut retry = Retry::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let before = self.status.borrow().stored;
            let Err(error) = self.lead().await;
            let halted = matches!(error, RelayError::Halted(_)).then(|| error.to_string());
            if halted.is_some() && self.status.borrow().halted != halted {
                tracing::error!(shard = %self.shard, reason = %error, "relay stopped: an operator has to decide");
            } else if halted.is_none() {
                tracing::warn!(shard = %self.shard, error = &error as &dyn std::error::Error, "relay starts over");
            }
            if self.status.borrow().stored > before {
                retry.reset();
            }
            self.status.send_modify(|status| {
                status.leads = false;
                status.halted = halted;
            });
            sleep(retry.next_wait()).await;
        }
    }

    async fn lead(&self) -> Result<Infallible, RelayError> {
        let mut connection = leadership::take(&self.database, "outbox_relay", self.shard.0).await?;
        self.status.send_modify(|status| status.leads = true);
        while self.nats.connection_state() != State::Connected {
            sleep(CONNECTION_CHECK_INTERVAL).await;
        }
        let stored = self.end_of_stream(&mut connection).await?;
        self.status.send_modify(|status| {
            status.healed += (status.stored - stored).max(0);
            status.stored = stored;
            status.halted = None;
        });
        let inbox = self.nats.new_inbox();
        let acknowledgements =
            self.nats.subscribe(format!("{inbox}.*")).await.map_err(|error| self.stream_error(&error))?;
        Pipeline { relay: self, inbox, acknowledgements, sent: stored, stored }.run(&mut connection).await
    }

    /// The position at which the stream ends, which is the relay's cursor. Makes the stream where
    /// there is none, and makes sure that its end is ours.
    async fn end_of_stream(&self, connection: &mut PgConnection) -> Result<i64, RelayError> {
        let stream = stream::of_shard(&self.nats, &self.outlet, self.shard, self.replicas).await?;
        let state = stream.cached_info().state.clone();
        let last = i64::try_from(state.last_sequence).unwrap_or(i64::MAX);
        let (oldest, head): (i64, i64) = sqlx::query_as(
            "SELECT coalesce((SELECT position FROM outbox WHERE shard = $1 ORDER BY position LIMIT 1), 1), \
                    outbox_head($1)",
        )
        .bind(self.shard.0)
        .fetch_one(&mut *connection)
        .await?;
        if last > head {
            return Err(RelayError::Halted(format!(
                "stream {} ends at {last}, the outbox at {head}: the database was restored to an earlier time",
                self.outlet.stream_of(self.shard)
            )));
        }
        if last + 1 < oldest {
            return Err(RelayError::Halted(format!(
                "stream {} ends at {last}, and the outbox starts at {oldest}: what is between is gone",
                self.outlet.stream_of(self.shard)
            )));
        }
        if state.messages > 0 && last >= oldest {
            self.check_identity(&stream, connection, last).await?;
        }
        Ok(last)
    }

    /// The message at `position` is the event at `position`.
    async fn check_identity(
        &self,
        stream: &Stream,
        connection: &mut PgConnection,
        position: i64,
    ) -> Result<(), RelayError> {
        // From the stream's leader, not a direct get, which a replica that lags may answer.
        let message = stream
            .get_raw_message(position.unsigned_abs())
            .await
            .map_err(|error| self.stream_error(&error))?;
        let theirs = message.headers.get(async_nats::header::NATS_MESSAGE_ID).map(ToString::to_string);
        let ours: Uuid = sqlx::query_scalar("SELECT event_id FROM outbox WHERE shard = $1 AND position = $2")
            .bind(self.shard.0)
            .bind(position)
            .fetch_one(connection)
            .await?;
        let ours = Ulid::from(ours).to_string();
        if theirs.as_ref() == Some(&ours) {
            return Ok(());
        }
        Err(RelayError::Halted(format!(
            "stream {} has {} at sequence {position}, where the outbox has {ours}: somebody else wrote to it, \
             or the database was restored to an earlier time",
            self.outlet.stream_of(self.shard),
            theirs.as_deref().unwrap_or("a message without id"),
        )))
    }

    fn stream_error(&self, error: &dyn std::error::Error) -> RelayError {
        StreamError::new(&self.outlet.stream_of(self.shard), error).into()
    }
}

/// Messages on their way, from one reading of the stream's end to the first refusal.
struct Pipeline<'a> {
    relay: &'a Relay,
    /// Replies come to `<inbox>.<position>`.
    inbox: String,
    acknowledgements: Subscriber,
    sent: i64,
    stored: i64,
}

/// What JetStream answers to a publish.
#[derive(Deserialize)]
struct Acknowledgement {
    seq: Option<i64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Pipeline<'_> {
    async fn run(mut self, connection: &mut PgConnection) -> Result<Infallible, RelayError> {
        let mut idle = IDLE_FIRST;
        let mut checked = Instant::now();
        loop {
            let next_batch_at = Instant::now() + PACE;
            let has_room = self.sent - self.stored <= IN_FLIGHT_MAX - BATCH_ROWS;
            let published = if has_room { self.publish_batch(connection).await? } else { 0 };
            if self.sent > self.stored {
                self.take_acknowledgements().await?;
                idle = IDLE_FIRST;
                checked = Instant::now();
                if published < BATCH_ROWS {
                    sleep_until(next_batch_at).await;
                }
            } else if published == 0 {
                if checked.elapsed() >= STREAM_CHECK_INTERVAL {
                    self.check_end().await?;
                    checked = Instant::now();
                }
                // A wake-up that came since the outbox was read is kept.
                let _ = timeout(idle, self.relay.wake.notified()).await;
                idle = (idle * 2).min(IDLE_LONGEST);
            }
        }
    }

    async fn publish_batch(&mut self, connection: &mut PgConnection) -> Result<i64, RelayError> {
        let (shard, until) = (self.relay.shard, self.sent + BATCH_ROWS);
        let events = StoredEvent::between(connection, shard, self.sent, until).await?;
        let count = events.len() as i64;
        let end = self.sent + count;
        for event in events {
            if event.position != self.sent + 1 {
                let hole = self.sent + 1;
                return Err(RelayError::Halted(format!("position {hole} is missing from the outbox")));
            }
            let position = event.position;
            self.publish(event, position == end || position % ACKNOWLEDGED_EVERY == 0).await?;
            self.sent = position;
        }
        Ok(count)
    }

    async fn publish(&self, event: StoredEvent, acknowledged: bool) -> Result<(), RelayError> {
        let Relay { outlet, shard, nats, .. } = self.relay;
        let mut headers = event.headers(&event.id.to_string());
        headers.insert(async_nats::header::NATS_EXPECTED_LAST_SEQUENCE, (event.position - 1).to_string());
        let subject = outlet.subject(&event.kind, &event.key, *shard);
        let body = event.body(outlet);
        if acknowledged {
            let reply = format!("{}.{}", self.inbox, event.position);
            nats.publish_with_reply_and_headers(subject, reply, headers, body).await
        } else {
            nats.publish_with_headers(subject, headers, body).await
        }
        .map_err(|error| self.relay.stream_error(&error))
    }

    /// The stream still ends where it did.
    async fn check_end(&self) -> Result<(), RelayError> {
        let Relay { outlet, shard, nats, .. } = self.relay;
        let end = stream::end(nats, &outlet.stream_of(*shard)).await?;
        if i64::try_from(end) == Ok(self.stored) {
            return Ok(());
        }
        Err(self.not_stored(&format!("the stream ends at {end}, and ended at {}", self.stored)))
    }

    /// Waits for one acknowledgement, and takes all that are there.
    async fn take_acknowledgements(&mut self) -> Result<(), RelayError> {
        let mut waited = Duration::ZERO;
        let first = loop {
            match timeout(CONNECTION_CHECK_INTERVAL, self.acknowledgements.next()).await {
                Ok(Some(message)) => break message,
                Ok(None) => return Err(self.not_stored("the connection was closed")),
                Err(_) if self.relay.nats.connection_state() != State::Connected => {
                    return Err(self.not_stored("disconnected"));
                }
                Err(_) => waited += CONNECTION_CHECK_INTERVAL,
            }
            if waited >= ACKNOWLEDGEMENT_TIMEOUT {
                return Err(self.not_stored("no acknowledgement in time"));
            }
        };
        self.accept(&first)?;
        while let Some(Some(message)) = self.acknowledgements.next().now_or_never() {
            self.accept(&message)?;
        }
        self.relay.status.send_modify(|status| status.stored = self.stored);
        Ok(())
    }

    fn accept(&mut self, message: &Message) -> Result<(), RelayError> {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(self.not_stored("no stream takes the subject"));
        }
        let position: Option<i64> = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        let answer: Acknowledgement =
            serde_json::from_slice(&message.payload).map_err(|error| self.not_stored(&error.to_string()))?;
        match (answer.error, answer.seq) {
            (Some(refusal), _) => {
                Err(self.not_stored(&format!("{} ({})", refusal.description, refusal.err_code)))
            }
            // `duplicate` alone proves nothing: it is also said of what was purged since.
            (None, seq) if answer.duplicate || seq != position => {
                Err(self
                    .not_stored(&format!("the server says sequence {seq:?}, duplicate {}", answer.duplicate)))
            }
            (None, seq) => {
                self.stored = self.stored.max(seq.unwrap_or_default());
                Ok(())
            }
        }
    }

    fn not_stored(&self, reason: &str) -> RelayError {
        RelayError::Refused { position: self.stored + 1, reason: reason.to_owned() }
    }
}
