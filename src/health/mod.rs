//! The health of a process: whether it can do its work, and what it measures.

mod sample;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_nats::connection::State as NatsState;
use outbox_relay::{RelayStatus, Shard, zoo};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

pub use self::sample::Watch;
use self::sample::with_command;
use crate::audit::AuditRound;
use crate::identity::jwt::UserTokens;
use crate::identity::tokens::Tokens;
use crate::issue::Issuer;
use crate::lifecycle;
use crate::limits::Limits;

/// API tokens are read every 2 s. After this time without a read a process tells it.
const TOKENS_PATIENCE: Duration = Duration::from_secs(10);
/// The keys of end users are fetched every 10 minutes. After this time without a fetch a process tells it.
const KEYS_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What there is to watch in this process.
#[derive(Debug)]
pub struct Health {
    pub watch: Watch,
    /// Nothing in a process without the API.
    pub issuer: Option<Arc<Issuer>>,
    /// Nothing in a process without the API.
    pub changes: Option<lifecycle::metrics::Metrics>,
    /// Nothing in a process without the API.
    pub tokens: Option<Arc<Tokens>>,
    /// Nothing in a process without the API, and where end users have no access.
    pub users: Option<Arc<UserTokens>>,
    /// Nothing in a process without the API.
    pub limits: Option<Arc<Limits>>,
    /// The verdicts of the auditor; nothing in a process without the projections.
    pub verdict: Option<watch::Receiver<Option<AuditRound>>>,
}

/// Whether a process can do its work, and what is missing.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Readiness {
    /// Why relays have stopped, one sentence each, whichever process they are in.
    pub halted: Vec<String>,
    pub nats: Link,
    pub postgres: Link,
    pub redis: Link,
    /// What makes no progress, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stalled: Vec<String>,
    pub status: Status,
}

/// The link to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub enum Link {
    #[serde(rename = "up")]
    Up,
    #[serde(rename = "down")]
    Down,
    #[serde(rename = "not needed")]
    NotNeeded,
    #[serde(rename = "unknown")]
    Unknown,
}

/// What a process can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ReadinessStatus)]
pub enum Status {
    /// All of its work.
    Ready,
    /// It serves, but does not publish.
    Degraded,
    /// Not its work.
    Unready,
}

impl Health {
    /// Watches the servers until it is dropped.
    pub async fn watch(&self) -> Infallible {
        self.watch.run().await
    }

    /// What the servers said last. Claims can be served without NATS: the outbox keeps the events meanwhile.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let issuer = self.issuer.as_deref();
        let sample = self.watch.current();
        let postgres = sample.is_some() && issuer.is_none_or(Issuer::can_write);
        let redis = issuer.is_none_or(Issuer::gate_is_reachable);
        let relays = || self.watch.relays.iter().map(|(_, relay)| relay.borrow());
        let nats = self.watch.nats.connection_state() == NatsState::Connected
            && !relays().any(|relay| relay.held_up.is_some());
        // One that stands by has no say: another may have gone on since. What has halted all, the sample tells.
        let own = self.watch.relays.iter().filter_map(|(shard, relay)| {
            let relay = relay.borrow();
            let halt = relay.halted.as_ref().filter(|_| relay.leads)?;
            Some(with_command(*shard, &halt.to_string()))
        });
        let mut halted: Vec<String> = own.collect();
        let mut stalled: Vec<String> = self.watch.relays.iter().filter_map(held_up).collect();
        if let Some(sample) = sample {
            halted.extend(sample.halted());
            stalled.extend(sample.stalled);
        }
        stalled.extend(issuer.map(Issuer::gate_nodes_away).unwrap_or_default());
        stalled.extend(self.tokens.as_deref().filter(|_| postgres).and_then(unread));
        stalled.extend(self.users.as_deref().and_then(unfetched));
        halted.sort_unstable();
        halted.dedup();
        let serves = postgres && redis && (nats || !zoo::has("unready-without-nats"));
        let status = match (serves, nats && halted.is_empty() && stalled.is_empty()) {
            (true, true) => Status::Ready,
            (true, false) => Status::Degraded,
            (false, _) => Status::Unready,
        };
        let link = |up| if up { Link::Up } else { Link::Down };
        let redis = if issuer.is_none() { Link::NotNeeded } else { link(redis) };
        Readiness { halted, nats: link(nats), postgres: link(postgres), redis, stalled, status }
    }

    /// The metrics as they were sampled last. Gauges that only the servers know are absent when they have not answered
    /// lately.
    #[must_use]
    pub fn metrics(&self) -> Registry {
        let mut registry = Registry::default();
        if self.watch.current().is_some() {
            registry.register("outbox_sampled", "1 if the gauges of the outbox are current", gauge(1));
        }
        self.watch.metrics.register(&mut registry);
        if let Some(issuer) = &self.issuer {
            issuer.metrics().register(&mut registry);
        }
        if let Some(changes) = &self.changes {
            changes.register(&mut registry);
        }
        if let Some(limits) = &self.limits {
            limits.register(&mut registry);
        }
        if let Some(age) = self.tokens.as_deref().and_then(Tokens::age) {
            registry.register_with_unit(
                "api_tokens_read_age",
                "Since the last read of the API tokens began",
                Unit::Seconds,
                gauge(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)),
            );
        }
        if let Some(age) = self.users.as_deref().and_then(UserTokens::age) {
            registry.register_with_unit(
                "jwt_keys_read_age",
                "Since the keys of end users were last fetched from the URL in JWT_KEYS",
                Unit::Seconds,
                gauge(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)),
            );
        }
        self.register_verdict(&mut registry);
        registry
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
    /// The readiness of a process that waits for Postgres before it connects to the other servers.
    pub(crate) fn starting() -> Self {
        let (halted, stalled) = (Vec::new(), Vec::new());
        let (nats, postgres, redis) = (Link::Unknown, Link::Down, Link::Unknown);
        Self { halted, nats, postgres, redis, stalled, status: Status::Unready }
    }

    /// Whether requests should be sent to this process.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status != Status::Unready
    }
}

/// Why a relay of this process retries.
fn held_up((shard, relay): &(Shard, watch::Receiver<RelayStatus>)) -> Option<String> {
    let relay = relay.borrow();
    relay.held_up.as_ref().map(|reason| format!("shard {shard}: the relay retries: {reason}"))
}

/// That API tokens cannot be read.
fn unread(tokens: &Tokens) -> Option<String> {
    match tokens.age() {
        Some(age) if age < TOKENS_PATIENCE => None,
        Some(age) => Some(format!("API tokens were last read {} s ago", age.as_secs())),
        None => Some("API tokens were never read".to_owned()),
    }
}

/// That the keys of end users cannot be fetched.
fn unfetched(users: &UserTokens) -> Option<String> {
    match users.age() {
        Some(age) if age >= KEYS_PATIENCE => {
            Some(format!("the keys in JWT_KEYS were last fetched {} s ago", age.as_secs()))
        }
        None if users.lacks_keys() => Some("the keys in JWT_KEYS were never fetched".to_owned()),
        Some(_) | None => None,
    }
}

fn gauge(value: i64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(value);
    gauge
}
