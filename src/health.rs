//! The health of a process: whether it can do its work, and what it measures.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_nats::connection::State as NatsState;
use outbox_relay::{Metrics, RelayStatus, Shard, zoo};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::audit::AuditRound;
use crate::issue::Issuer;
use crate::projections;
use crate::storage::prepared;

/// For Postgres to answer. A probe that waits longer finds Postgres down.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(1);

/// What there is to watch in this process.
#[derive(Debug)]
pub struct Health {
    pub pool: PgPool,
    pub nats: async_nats::Client,
    pub shards: i16,
    /// Nothing in a process without the API.
    pub issuer: Option<Arc<Issuer>>,
    /// The relays in this process.
    pub relays: Vec<(Shard, watch::Receiver<RelayStatus>)>,
    /// The verdicts of the auditor; nothing in a process without the projections.
    pub verdict: Option<watch::Receiver<Option<AuditRound>>>,
    pub metrics: Metrics,
}

/// Whether a process can do its work, and what is missing.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Why relays of this process have stopped, one sentence each.
    pub halted: Vec<String>,
    pub nats: Link,
    pub postgres: Link,
    pub redis: Link,
    pub status: Status,
}

/// The link to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Link {
    #[serde(rename = "up")]
    Up,
    #[serde(rename = "down")]
    Down,
    #[serde(rename = "not needed")]
    NotNeeded,
}

/// What a process can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All of its work.
    Ready,
    /// It serves, but does not publish.
    Degraded,
    /// Not its work.
    Unready,
}

impl Health {
    /// Asks the servers. Claims can be served without NATS: the outbox keeps the events meanwhile.
    pub async fn readiness(&self) -> Readiness {
        let issuer = self.issuer.as_deref();
        let answers = timeout(DATABASE_TIMEOUT, sqlx::query("SELECT 1").execute(&self.pool)).await;
        let postgres = answers.is_ok_and(|result| result.is_ok()) && issuer.is_none_or(Issuer::can_write);
        let redis = issuer.is_none_or(Issuer::gate_is_reachable);
        let held_up = self.relays.iter().any(|(_, relay)| relay.borrow().held_up);
        let nats = self.nats.connection_state() == NatsState::Connected && !held_up;
        let halted = |(_, relay): &(Shard, watch::Receiver<RelayStatus>)| {
            relay.borrow().halted.as_ref().map(ToString::to_string)
        };
        let halted: Vec<String> = self.relays.iter().filter_map(halted).collect();
        let serves = postgres && redis && (nats || !zoo::has("unready-without-nats"));
        let status = match (serves, nats && halted.is_empty()) {
            (true, true) => Status::Ready,
            (true, false) => Status::Degraded,
            (false, _) => Status::Unready,
        };
        let link = |up| if up { Link::Up } else { Link::Down };
        let redis = if issuer.is_none() { Link::NotNeeded } else { link(redis) };
        Readiness { halted, nats: link(nats), postgres: link(postgres), redis, status }
    }

    /// The metrics of this moment. Gauges that only Postgres knows are absent when it does not answer.
    pub async fn metrics(&self) -> Registry {
        let mut registry = Registry::default();
        self.metrics.register(&mut registry);
        if timeout(DATABASE_TIMEOUT, self.sample()).await.is_ok_and(|sampled| sampled.is_ok()) {
            let sampled = gauge(1);
            registry.register("outbox_sampled", "1 if the other gauges are current", sampled);
        }
        if let Some(issuer) = &self.issuer {
            issuer.metrics().register(&mut registry);
        }
        self.register_verdict(&mut registry);
        registry
    }

    async fn sample(&self) -> Result<(), sqlx::Error> {
        let relays: Vec<_> =
            self.relays.iter().map(|(shard, relay)| (*shard, relay.borrow().clone())).collect();
        let projections = if self.verdict.is_some() { projections::names() } else { Vec::new() };
        prepared!(&self.pool, |connection| self.metrics.sample(
            connection,
            &relays,
            &projections,
            self.shards
        ))
    }

    /// The latest verdict, while the auditor of this process is the one that audits, and can tell.
    fn register_verdict(&self, registry: &mut Registry) {
        let Some(verdict) = self.verdict.as_ref().and_then(|verdict| verdict.borrow().clone()) else {
            return;
        };
        let finished = verdict.finished_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        registry.register(
            "audit_balanced",
            "1 if nothing differs except events in flight",
            gauge(verdict.balanced.into()),
        );
        registry.register(
            "audit_drift_events",
            "Events by which gate, coupons, outbox, stream and projections differ",
            gauge(i64::try_from(verdict.drift).unwrap_or(i64::MAX)),
        );
        registry.register_with_unit(
            "audit_round_finished_timestamp",
            "When the last round ended, since 1970",
            Unit::Seconds,
            gauge(i64::try_from(finished).unwrap_or(i64::MAX)),
        );
    }
}

impl Readiness {
    /// Whether requests should be sent to this process.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status != Status::Unready
    }
}

fn gauge(value: i64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(value);
    gauge
}
