//! Copies the outbox of a shard into its stream: one relay of a shard is active, any number stand by.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use async_nats::connection::State;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::cursor::Cursor;
use crate::failpoint;
use crate::in_time::InTime as _;
use crate::leadership;
use crate::metrics::Metrics;
use crate::outage::{Begins, Failed, Told};
use crate::outlet::Shard;
use crate::ownership;
use crate::pipeline::{Pipeline, Route};
use crate::reason::reason_of;
use crate::retry::Retry;
use crate::site::Site;
use crate::standing::{self, RELAY_LOCK};
use crate::status::{RelayError, RelayStatus};
use crate::stream::{self, CONNECTION_CHECK_INTERVAL};
use crate::zoo;

/// Copies one shard of an outbox into its stream.
#[derive(Debug)]
pub struct Relay {
    replicas: usize,
    route: Route,
}

impl Relay {
    /// A relay of the shard. If there is no stream, it creates one with `replicas` replicas.
    #[must_use]
    pub fn new(site: Site, replicas: usize) -> Self {
        let (status, metrics) = (watch::Sender::default(), Metrics::default());
        Self { replicas, route: Route { site, status, metrics } }
    }

    /// Uses these metrics.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { route: Route { metrics, ..self.route }, ..self }
    }

    /// What this relay reports, updated on each change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RelayStatus> {
        self.route.status.subscribe()
    }

    /// Relays until it is dropped, which is safe at any point.
    pub async fn run(&self) -> Infallible {
        let mut retry = Retry::new(Duration::from_millis(50), Duration::from_secs(2));
        let Site { outage, nats, .. } = &self.route.site;
        let (mut told, mut session) = (Told::new(outage, nats), None);
        // At 0 from the start: an alarm on its growth sees the first refusal too.
        drop(self.route.metrics.refused.get_or_create(&self.route.site.shard.into()));
        loop {
            let before = self.route.status.borrow().published;
            told.tries();
            let Ended { error, kept } = self.lead(session.take(), &mut told).await;
            self.report(error, &mut told);
            if self.route.status.borrow().published > before {
                retry.reset();
            }
            let wait = sleep(retry.next_wait());
            match kept {
                Some(mut connection) => {
                    let is_kept = leadership::keep(&mut connection, wait).await.is_ok();
                    session = Some(connection).filter(|_| is_kept);
                }
                None => wait.await,
            }
        }
    }

    /// Says why the relay starts over or has stopped.
    fn report(&self, error: RelayError, told: &mut Told) {
        let shard = self.route.site.shard;
        let nats_fails = matches!(error, RelayError::Stream(_) | RelayError::Refused { .. });
        let held_up = nats_fails.then(|| reason_of(&error));
        let halted = match error {
            RelayError::Halted(halt) => {
                told.waits();
                if self.route.status.borrow().halted.as_ref() != Some(&halt) {
                    tracing::error!(%shard, reason = %halt, "relay stopped: it waits for a decision of an operator");
                }
                Some(halt)
            }
            error => {
                if let RelayError::Refused { .. } = &error {
                    self.route.metrics.refused.get_or_create(&shard.into()).inc();
                }
                let failed = match &error {
                    RelayError::Database(error) => Failed::Postgres(error),
                    _ => Failed::Nats,
                };
                let (warns, error) = (told.warns(&failed), &error as &dyn std::error::Error);
                if warns {
                    tracing::warn!(%shard, error, "relay starts over");
                } else {
                    tracing::debug!(%shard, error, "relay starts over");
                }
                None
            }
        };
        self.route.status.send_modify(|status| (status.halted, status.held_up) = (halted, held_up));
    }

    /// Leads on `session` if it has kept that.
    async fn lead(&self, session: Option<PgConnection>, told: &mut Told) -> Ended {
        // What it knows to be published holds for the database of that session: another may be restored.
        let trusts = session.is_some() || zoo::has("memory-outlives-the-session");
        let (mut connection, leads_on) = match session {
            Some(connection) => (connection, true),
            None => match self.take_lock(told).await {
                Ok(taken) => taken,
                Err(error) => return Ended { error, kept: None },
            },
        };
        let known = if trusts && leads_on { self.route.status.borrow().published } else { 0 };
        let Err(error) = self.lead_on(&mut connection, Start { leads_on, known }, told).await;
        // What NATS refuses, it refuses to another relay as well. If it does not answer, another may try; and while the
        // relay has stopped, an operator's command needs the lock.
        let keeps = matches!(error, RelayError::Refused { .. });
        Ended { error, kept: keeps.then_some(connection) }
    }

    /// Leads on the connection that holds the lock.
    async fn lead_on(
        &self,
        connection: &mut PgConnection,
        start: Start,
        told: &mut Told,
    ) -> Result<Infallible, RelayError> {
        self.route.status.send_modify(|status| status.leads = true);
        failpoint::reached("relay.leads").await;
        let Site { shard, nats, .. } = &self.route.site;
        // The client reports `Connected` a moment before it has the server's data.
        let server = loop {
            match nats.try_server_info() {
                Some(server) if nats.connection_state() == State::Connected => break server,
                _ => connection.ping().in_time().await?, // an idle session is ended
            }
            sleep(CONNECTION_CHECK_INTERVAL).await;
        };
        note_max_payload(connection, server.max_payload).await?;
        let Err(error) = self.relay(connection, start, told).await;
        if let RelayError::Halted(halt) = &error {
            standing::note(connection, *shard, halt).await?;
        }
        Err(error)
    }

    /// Relays to a NATS that is connected.
    async fn relay(
        &self,
        connection: &mut PgConnection,
        Start { leads_on, known }: Start,
        told: &mut Told,
    ) -> Result<Infallible, RelayError> {
        let Site { outlet, shard, nats, .. } = &self.route.site;
        let cursor = Cursor { outlet, shard: *shard, replicas: self.replicas, nats };
        let (published, epochs) = cursor.find(connection, known).await?;
        failpoint::reached("relay.found").await;
        standing::forget(connection, *shard).await?;
        self.found(published, leads_on);
        match told.begins(leads_on) {
            Begins::Silently => tracing::debug!(%shard, position = published, "the relay goes on"),
            Begins::Leads => tracing::info!(%shard, position = published, "the relay leads"),
            Begins::GoesOn => tracing::info!(%shard, position = published, "the relay goes on"),
        }
        let pipeline = Pipeline::new(&self.route, epochs.current(), published).await?;
        tokio::select! {
            ended = pipeline.run(connection) => ended,
            never = self.tend() => match never {},
        }
    }

    /// Creates the stream of dead letters, for the relay of shard 0, and makes the streams without an owner those of
    /// this deployment, beside the publishing: a login that may not does not hold it up. Called when the stream of the
    /// shard was found to hold the events of the outbox.
    async fn tend(&self) -> Infallible {
        let Site { outlet, shard, nats, .. } = &self.route.site;
        let mut streams = vec![outlet.stream_of(*shard)];
        if *shard == Shard(0) {
            if let Err(error) = stream::of_dead(nats, outlet).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "without the stream of dead letters, an event that cannot be applied holds up the projections"
                );
            }
            streams.extend([outlet.dead_stream(), outlet.replay_stream()]);
        }
        ownership::adopt(nats, outlet, &streams).await;
        pending().await
    }

    /// Waits for the lock of the shard. Returns its connection, and whether this relay was the active one already.
    async fn take_lock(&self, told: &mut Told) -> Result<(PgConnection, bool), RelayError> {
        let led = self.route.status.borrow().leads;
        let Site { database, shard, outlet, .. } = &self.route.site;
        let class = outlet.own(RELAY_LOCK);
        let first_try = leadership::try_take(database, &class, shard.0, Duration::ZERO).await?;
        told.connected();
        if let (connection, true) = first_try {
            return Ok((connection, led));
        }
        self.route
            .status
            .send_modify(|status| (status.leads, status.found, status.held_up) = (false, false, None));
        let (connection, _) = leadership::take(database, &class, shard.0, || {}).await?;
        Ok((connection, false))
    }

    /// Reports that the stream ends at position `published`.
    fn found(&self, published: i64, leads_on: bool) {
        let Route { site: Site { shard, .. }, status, metrics } = &self.route;
        let shard = *shard;
        status.send_modify(|status| {
            let lost = (status.published - published).max(0);
            metrics.healed.get_or_create(&shard.into()).inc_by(lost.unsigned_abs());
            status.healed += lost;
            if leads_on {
                // This relay sent them, and the connection was lost before they were acknowledged.
                let found = (published - status.published).max(0);
                metrics.published.get_or_create(&shard.into()).inc_by(found.unsigned_abs());
            }
            status.published = published;
            status.found = true;
            status.halted = None;
        });
    }
}

/// How a relay begins to lead.
#[derive(Clone, Copy)]
struct Start {
    /// It was the active one already.
    leads_on: bool,
    /// The stream has the events up to this position for sure.
    known: i64,
}

/// Why a relay no longer leads.
struct Ended {
    error: RelayError,
    /// The connection with the lock, if the relay keeps it until it leads again.
    kept: Option<PgConnection>,
}

/// Tells [`append`](crate::append()) how large a message may be. The row is written only when the server's
/// limit has changed.
async fn note_max_payload(connection: &mut PgConnection, max: usize) -> Result<(), sqlx::Error> {
    let max = i32::try_from(max).unwrap_or(i32::MAX);
    // Below 1 KiB no event fits: then the relay stops, and appending goes on.
    sqlx::query("UPDATE outbox_limits SET max_payload = $1 WHERE max_payload <> $1 AND $1 > 1024")
        .bind(max)
        .execute(connection)
        .in_time()
        .await
        .map(drop)
}
