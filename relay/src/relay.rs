//! From the outbox to the stream: one active relay a shard, any number standing by.

use std::convert::Infallible;
use std::time::Duration;

use async_nats::connection::State;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::cursor::Cursor;
use crate::failpoint;
use crate::leadership::{self, RELAY_LOCK};
use crate::metrics::Metrics;
use crate::pipeline::{Pipeline, Route};
use crate::retry::Retry;
use crate::site::Site;
use crate::status::{RelayError, RelayStatus};
use crate::stream::CONNECTION_CHECK_INTERVAL;

/// Copies one shard of an outbox into its stream.
#[derive(Debug)]
pub struct Relay {
    replicas: usize,
    route: Route,
}

impl Relay {
    /// A relay that makes its stream, if there is none, with `replicas` replicas.
    #[must_use]
    pub fn new(site: Site, replicas: usize) -> Self {
        let (status, metrics) = (watch::Sender::default(), Metrics::default());
        Self { replicas, route: Route { site, status, metrics } }
    }

    /// Measures here.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { route: Route { metrics, ..self.route }, ..self }
    }

    /// What this relay says of itself, now and whenever it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RelayStatus> {
        self.route.status.subscribe()
    }

    /// Relays until it is dropped, which is safe at any point.
    pub async fn run(&self) -> Infallible {
        let mut retry = Retry::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let before = self.route.status.borrow().published;
            let Err(error) = self.lead().await;
            let held_up = matches!(error, RelayError::Stream(_) | RelayError::Refused { .. });
            let halted = match error {
                RelayError::Halted(halt) => {
                    if self.route.status.borrow().halted.as_ref() != Some(&halt) {
                        tracing::error!(shard = %self.route.site.shard, reason = %halt, "relay stopped: an operator has to decide");
                    }
                    Some(halt)
                }
                error => {
                    if let RelayError::Refused { .. } = &error {
                        self.route.metrics.refused.get_or_create(&self.route.site.shard.into()).inc();
                    }
                    tracing::warn!(shard = %self.route.site.shard, error = &error as &dyn std::error::Error, "relay starts over");
                    None
                }
            };
            if self.route.status.borrow().published > before {
                retry.reset();
            }
            self.route.status.send_modify(|status| (status.halted, status.held_up) = (halted, held_up));
            sleep(retry.next_wait()).await;
        }
    }

    async fn lead(&self) -> Result<Infallible, RelayError> {
        let led = self.route.status.borrow().leads;
        let first_try = leadership::try_take(
            &self.route.site.database,
            RELAY_LOCK,
            self.route.site.shard.0,
            Duration::ZERO,
        )
        .await?;
        let (mut connection, leads_on) = if let (connection, true) = first_try {
            (connection, led)
        } else {
            self.route.status.send_modify(|status| (status.leads, status.held_up) = (false, false));
            (leadership::take(&self.route.site.database, RELAY_LOCK, self.route.site.shard.0).await?, false)
        };
        self.route.status.send_modify(|status| status.leads = true);
        failpoint::reached("relay.leads").await;
        let Site { outlet, shard, nats, .. } = &self.route.site;
        // The client is `Connected` a moment before it knows of what server.
        let server = loop {
            match nats.try_server_info() {
                Some(server) if nats.connection_state() == State::Connected => break server,
                _ => connection.ping().await?, // who does not ask loses his session
            }
            sleep(CONNECTION_CHECK_INTERVAL).await;
        };
        note_max_payload(&mut connection, server.max_payload).await?;
        let cursor = Cursor { outlet, shard: *shard, replicas: self.replicas, nats };
        let published = if leads_on { self.route.status.borrow().published } else { 0 };
        let (published, epochs) = cursor.find(&mut connection, published).await?;
        failpoint::reached("relay.found").await;
        self.route.status.send_modify(|status| {
            let lost = (status.published - published).max(0);
            self.route
                .metrics
                .healed
                .get_or_create(&self.route.site.shard.into())
                .inc_by(lost.unsigned_abs());
            status.healed += lost;
            if leads_on {
                // It sent them, and the connection was lost before they were acknowledged.
                let found = (published - status.published).max(0);
                let counter = self.route.metrics.published.get_or_create(&self.route.site.shard.into());
                counter.inc_by(found.unsigned_abs());
            }
            status.published = published;
            status.halted = None;
        });
        Pipeline::new(&self.route, epochs.current(), published).await?.run(&mut connection).await
    }
}

/// Lets [`append`](crate::append()) know how large a message may be. The row is only written when the
/// server has another limit than before.
async fn note_max_payload(connection: &mut PgConnection, max: usize) -> Result<(), sqlx::Error> {
    let max = i32::try_from(max).unwrap_or(i32::MAX);
    // Below 1 KiB no event fits: then it is the relay that stops, not the service.
    sqlx::query("UPDATE outbox_limits SET max_payload = $1 WHERE max_payload <> $1 AND $1 > 1024")
        .bind(max)
        .execute(connection)
        .await
        .map(drop)
}
