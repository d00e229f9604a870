//! From the outbox to the stream: one active relay a shard, any number standing by.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::cursor::{Cursor, Halt};
use crate::leadership;
use crate::metrics::Metrics;
use crate::outlet::{Outlet, Shard};
use crate::pipeline::Pipeline;
use crate::retry::Retry;
use crate::stream::StreamError;

/// How often a relay that waits looks whether it is still connected.
pub(crate) const CONNECTION_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The class of the advisory lock that the active relay of a shard holds.
pub(crate) const LOCK: &str = "outbox_relay";

/// Copies one shard of an outbox into its stream.
#[derive(Debug)]
pub struct Relay {
    pub(crate) outlet: Outlet,
    pub(crate) shard: Shard,
    replicas: usize,
    database: PgConnectOptions,
    pub(crate) nats: Client,
    pub(crate) wake: Arc<Notify>,
    pub(crate) status: watch::Sender<RelayStatus>,
    pub(crate) metrics: Metrics,
}

/// What a relay says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayStatus {
    /// It is the active one of its shard, as far as it knows: not while another is.
    pub leads: bool,
    /// The last position that the stream has confirmed.
    pub stored: i64,
    /// Events that it put into the stream once more because the stream had lost them.
    pub healed: i64,
    /// Why it stopped. Somebody has to decide; nothing is guessed.
    pub halted: Option<Halt>,
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
    #[error(transparent)]
    Halted(#[from] Halt),
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
        let metrics = Metrics::default();
        Self { outlet, shard, replicas, database, nats, wake, status, metrics }
    }

    /// Measures here.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// The shard that it relays.
    #[must_use]
    pub fn shard(&self) -> Shard {
        self.shard
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
            let halted = match error {
                RelayError::Halted(halt) => {
                    if self.status.borrow().halted.as_ref() != Some(&halt) {
                        tracing::error!(shard = %self.shard, reason = %halt, "relay stopped: an operator has to decide");
                    }
                    Some(halt)
                }
                error => {
                    if let RelayError::Refused { .. } = &error {
                        self.metrics.refused.get_or_create(&self.shard.into()).inc();
                    }
                    tracing::warn!(shard = %self.shard, error = &error as &dyn std::error::Error, "relay starts over");
                    None
                }
            };
            if self.status.borrow().stored > before {
                retry.reset();
            }
            self.status.send_modify(|status| status.halted = halted);
            sleep(retry.next_wait()).await;
        }
    }

    async fn lead(&self) -> Result<Infallible, RelayError> {
        let led = self.status.borrow().leads;
        let first_try = leadership::try_take(&self.database, LOCK, self.shard.0, Duration::ZERO).await?;
        let (mut connection, leads_on) = if let (connection, true) = first_try {
            (connection, led)
        } else {
            self.status.send_modify(|status| status.leads = false);
            (leadership::take(&self.database, LOCK, self.shard.0).await?, false)
        };
        self.status.send_modify(|status| status.leads = true);
        while self.nats.connection_state() != State::Connected {
            connection.ping().await?; // who does not ask loses his session
            sleep(CONNECTION_CHECK_INTERVAL).await;
        }
        note_max_payload(&mut connection, self.nats.server_info().max_payload).await?;
        let Self { outlet, shard, replicas, nats, .. } = self;
        let cursor = Cursor { outlet, shard: *shard, replicas: *replicas, nats };
        let (stored, epochs) = cursor.find(&mut connection).await?;
        self.status.send_modify(|status| {
            let lost = (status.stored - stored).max(0);
            self.metrics.healed.get_or_create(&self.shard.into()).inc_by(lost.unsigned_abs());
            status.healed += lost;
            if leads_on {
                // It sent them, and the connection was lost before they were confirmed.
                let found = (stored - status.stored).max(0);
                self.metrics.published.get_or_create(&self.shard.into()).inc_by(found.unsigned_abs());
            }
            status.stored = stored;
            status.halted = None;
        });
        Pipeline::new(self, epochs.current(), stored).await?.run(&mut connection).await
    }

    pub(crate) fn stream_error(&self, error: &dyn std::error::Error) -> RelayError {
        StreamError::new(&self.outlet.stream_of(self.shard), error).into()
    }
}

/// Lets [`append`](crate::append()) know how large a message may be. The row is only written when the
/// server has another limit than before.
async fn note_max_payload(connection: &mut PgConnection, max: usize) -> Result<(), sqlx::Error> {
    let max = i32::try_from(max).unwrap_or(i32::MAX);
    sqlx::query("UPDATE outbox_limits SET max_payload = $1 WHERE max_payload <> $1")
        .bind(max)
        .execute(connection)
        .await
        .map(drop)
}
