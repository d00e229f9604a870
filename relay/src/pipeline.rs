//! Publishes messages with many in flight. Each names the sequence that it expects to follow, and each is
//! acknowledged.
//!
//! Each of them, because a foreign message may take the place of one: the next ones then find the sequence that
//! they expect. `Nats-Expected-Last-Msg-Id` would keep those out of the stream, but must not be sent: each
//! replica compares it with the ids that it remembers itself. A replica that was away for longer than the
//! duplicate window remembers none: with nats-server 2.9 it then leaves out the message, alone among the
//! replicas; with 2.14 and newer it stops.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::{Message, StatusCode, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _};
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep_until, timeout};

use crate::acknowledgement;
use crate::epoch::Epoch;
use crate::event::{EPOCH_HEADER, StoredEvent};
use crate::failpoint;
use crate::metrics::{Metrics, seconds_since};
use crate::site::Site;
use crate::status::{Halt, RelayError, RelayStatus};
use crate::stream::{self, CONNECTION_CHECK_INTERVAL, StreamError};
use crate::zoo;

/// Rows read from the outbox at a time.
const READ_ROWS: i64 = 500;
/// Messages published and not yet acknowledged, at most. Servers from 2.11 on refuse more than 10,000 waiting
/// messages of one stream.
pub(crate) const IN_FLIGHT_MAX: i64 = 4_000;
/// After this time without an acknowledgement the relay asks the stream where it ends.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an idle relay asks where the stream ends, because the stream may have lost messages.
const STREAM_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The shortest time between two batches, unless the first was full: under load a few large batches cost less
/// than many small ones, here and in the server.
const RELAY_PACE: Duration = Duration::from_millis(5);
/// The interval of polling an empty outbox when nothing in this process wakes the relay: it doubles from the
/// first to the longest.
const IDLE_FIRST: Duration = Duration::from_millis(2);
const IDLE_LONGEST: Duration = Duration::from_millis(50);

/// Where to publish, and where to report.
#[derive(Debug)]
pub(crate) struct Route {
    pub site: Site,
    pub status: watch::Sender<RelayStatus>,
    pub metrics: Metrics,
}

impl Route {
    fn error(&self, error: &dyn std::error::Error) -> RelayError {
        StreamError::new(&self.site.stream(), error).into()
    }
}

/// The messages in flight, from one look at the stream's end to the first refusal.
#[derive(Debug)]
pub(crate) struct Pipeline<'a> {
    route: &'a Route,
    epoch: Epoch,
    inbox: String,
    stream: String,
    /// How many times the client had connected: messages in flight do not outlive a connection.
    connects: u64,
    acknowledgements: Subscriber,
    /// The last position that was sent, and the last that was acknowledged.
    sent: i64,
    published: i64,
    /// When the events in flight were appended.
    times: VecDeque<OffsetDateTime>,
}

impl<'a> Pipeline<'a> {
    /// Continues after position `published`, where the stream ends.
    pub(crate) async fn new(route: &'a Route, epoch: Epoch, published: i64) -> Result<Self, RelayError> {
        let nats = &route.site.nats;
        let inbox = nats.new_inbox();
        let acknowledgements = nats.subscribe(inbox.clone()).await.map_err(|error| route.error(&error))?;
        let (sent, times, connects) = (published, VecDeque::new(), stream::connects(nats));
        let stream = route.site.stream();
        Ok(Self { route, epoch, inbox, stream, connects, acknowledgements, sent, published, times })
    }

    pub(crate) async fn run(mut self, connection: &mut PgConnection) -> Result<Infallible, RelayError> {
        let mut idle = IDLE_FIRST;
        let mut checked = Instant::now();
        loop {
            let next_batch_at = Instant::now() + RELAY_PACE;
            let has_room = self.sent - self.published <= IN_FLIGHT_MAX - READ_ROWS;
            let read = if has_room { self.publish_batch(connection).await? } else { 0 };
            if self.sent > self.published {
                self.take_acknowledgements().await?;
                idle = IDLE_FIRST;
                checked = Instant::now();
                if read < READ_ROWS {
                    sleep_until(next_batch_at).await;
                }
            } else if read == 0 {
                self.route.status.send_if_modified(|status| status.held_up.take().is_some());
                if checked.elapsed() >= STREAM_CHECK_INTERVAL {
                    self.check_end().await?;
                    checked = Instant::now();
                }
                // A notification since the outbox was read is not lost: `Notify` keeps it.
                let _ = timeout(idle, self.route.site.appended.notified()).await;
                idle = (idle * 2).min(IDLE_LONGEST);
            }
        }
    }

    async fn publish_batch(&mut self, connection: &mut PgConnection) -> Result<i64, RelayError> {
        let (shard, until) = (self.route.site.shard, self.sent + READ_ROWS);
        let events = StoredEvent::between(connection, shard, self.sent, until).await?;
        let count = events.len() as i64;
        if count > 0 {
            failpoint::reached("relay.read").await;
        }
        for event in events {
            if event.position != self.sent + 1 {
                return Err(Halt::Hole(self.sent + 1).into());
            }
            self.times.push_back(event.time);
            self.sent = event.position;
            self.publish(event).await?;
            failpoint::reached("relay.sent").await;
            if zoo::has("stored-when-sent") {
                self.published = self.sent;
            }
        }
        Ok(count)
    }

    async fn publish(&self, event: StoredEvent) -> Result<(), RelayError> {
        let Site { outlet, shard, nats, .. } = &self.route.site;
        let sequence = self.epoch.sequence_of(event.position);
        let mut headers = event.headers(&self.epoch.message_id(event.id));
        if !zoo::has("no-expected-sequence") {
            headers.insert(async_nats::header::NATS_EXPECTED_LAST_SEQUENCE, (sequence - 1).to_string());
        }
        if zoo::has("another-message-id-at-each-try") {
            headers.insert(async_nats::header::NATS_MESSAGE_ID, ulid::Ulid::generate().to_string());
        }
        if self.epoch.epoch > 0 {
            headers.insert(EPOCH_HEADER, self.epoch.epoch.to_string());
        }
        let subject = outlet.subject(&event.kind, &event.key, *shard);
        let body = event.body(outlet);
        let sent = nats.publish_with_reply_and_headers(subject, self.inbox.clone(), headers, body).await;
        sent.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => {
                Halt::TooLarge { position: event.position, max: nats.max_payload() }.into()
            }
            _ => self.route.error(&error),
        })
    }

    /// Verifies that the stream still ends at the last acknowledged position.
    async fn check_end(&self) -> Result<(), RelayError> {
        let site = &self.route.site;
        let stream = stream::ours(&site.nats, &site.outlet, &site.stream()).await?;
        let end = stream.map_or(0, |stream| stream.cached_info().state.last_sequence);
        let ended = self.epoch.sequence_of(self.published);
        if i64::try_from(end) == Ok(ended) {
            return Ok(());
        }
        Err(self.not_stored(&format!("the stream ends at {end}, and ended at {ended}")))
    }

    /// Waits for one acknowledgement, and takes all that have arrived.
    async fn take_acknowledgements(&mut self) -> Result<(), RelayError> {
        let deadline = Instant::now() + ACKNOWLEDGEMENT_TIMEOUT;
        loop {
            match timeout(CONNECTION_CHECK_INTERVAL, self.acknowledgements.next()).await {
                Ok(Some(answer)) if self.accept(&answer)? => break,
                Ok(None) => return Err(self.not_stored("the connection was closed")),
                Err(_) if self.was_disconnected() => {
                    return Err(self.not_stored("disconnected"));
                }
                Ok(Some(_)) | Err(_) => {} // a subscriber's answer, or none
            }
            if Instant::now() >= deadline {
                return Err(self.not_stored("no acknowledgement in time"));
            }
        }
        failpoint::reached("relay.acknowledged").await;
        // All of them: under Tokio's budget the subscription would report none after 128.
        while let Some(Some(answer)) = unconstrained(self.acknowledgements.next()).now_or_never() {
            self.accept(&answer)?;
        }
        self.route.status.send_modify(|status| (status.published, status.held_up) = (self.published, None));
        Ok(())
    }

    fn was_disconnected(&self) -> bool {
        let Site { nats, .. } = &self.route.site;
        stream::was_lost(nats, self.connects)
    }

    /// Takes an answer. Returns whether it is an acknowledgement: every subscriber of an event may answer it too.
    fn accept(&mut self, answer: &Message) -> Result<bool, RelayError> {
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(self.not_stored("no stream takes the subject"));
        }
        let expected = self.epoch.sequence_of(self.published + 1);
        let said = acknowledgement::stored(&answer.payload, &self.stream, expected);
        let Some(said) = said.filter(|_| self.sent > self.published) else { return Ok(false) };
        said.map_err(|reason| self.not_stored(&reason))?;
        self.published += 1;
        let Route { site: Site { shard, .. }, metrics, .. } = self.route;
        metrics.published.get_or_create(&(*shard).into()).inc();
        if let Some(time) = self.times.pop_front() {
            metrics.to_stream.get_or_create(&(*shard).into()).observe(seconds_since(time));
        }
        Ok(true)
    }

    fn not_stored(&self, reason: &str) -> RelayError {
        RelayError::Refused { position: self.published + 1, reason: reason.to_owned() }
    }
}
