//! What watches over a process: whether it lives, whether it can serve, and what it measures.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_nats::connection::State as NatsState;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use outbox_relay::{Metrics, RelayStatus, Shard, zoo};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde_json::json;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::timeout;

use super::json;
use super::problem::Problem;
use crate::audit::{PROJECTIONS, Verdict};
use crate::issue::Issuer;

const DATABASE_TIMEOUT: Duration = Duration::from_secs(1);
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What there is to watch in this process.
#[derive(Debug)]
pub struct Monitor {
    pub pool: PgPool,
    pub nats: async_nats::Client,
    pub shards: i16,
    /// Where the API is in this process.
    pub issuer: Option<Arc<Issuer>>,
    /// Of the relays in this process.
    pub relays: Vec<(Shard, watch::Receiver<RelayStatus>)>,
    /// Where the projections are in this process.
    pub verdict: Option<watch::Receiver<Option<Verdict>>>,
    pub metrics: Metrics,
}

/// `GET /livez`: the process answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: whether it can do its work, and what is away. Claims can be served without NATS: the
/// outbox keeps what it does not get.
pub(super) async fn readyz(State(monitor): State<Arc<Monitor>>) -> Response {
    let issuer = monitor.issuer.as_deref();
    let answers = timeout(DATABASE_TIMEOUT, sqlx::query("SELECT 1").execute(&monitor.pool)).await;
    let postgres = answers.is_ok_and(|result| result.is_ok()) && issuer.is_none_or(Issuer::can_write);
    let redis = issuer.is_none_or(|issuer| issuer.gate_is_reachable());
    let held_up = monitor.relays.iter().any(|(_, relay)| relay.borrow().held_up);
    let nats = monitor.nats.connection_state() == NatsState::Connected && !held_up;
    let halted: Vec<String> = monitor
        .relays
        .iter()
        .filter_map(|(_, relay)| Some(relay.borrow().halted.as_ref()?.to_string()))
        .collect();
    let ready = postgres && redis && (nats || !zoo::has("unready-without-nats"));
    let status = match (ready, nats && halted.is_empty()) {
        (true, true) => "ready",
        (true, false) => "degraded",
        (false, _) => "unready",
    };
    let word = |up| if up { "up" } else { "down" };
    let mut body = json!({
        "status": status, "postgres": word(postgres), "redis": word(redis), "nats": word(nats), "halted": halted,
    });
    if issuer.is_none() {
        body["redis"] = json!("not needed");
    }
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, json(&body)).into_response()
}

/// `GET /metrics`, in the text format of `OpenMetrics`.
pub(super) async fn metrics(State(monitor): State<Arc<Monitor>>) -> Response {
    let mut registry = Registry::default();
    monitor.metrics.register(&mut registry);
    if let Some(issuer) = &monitor.issuer {
        issuer.metrics().register(&mut registry);
    }
    if timeout(DATABASE_TIMEOUT, monitor.sample()).await.is_ok_and(|sampled| sampled.is_ok()) {
        let up = Gauge::<i64>::default();
        up.set(1);
        registry.register("outbox_sampled", "1 when the gauges are of now: Postgres answered", up);
    }
    monitor.register_verdict(&mut registry);
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            Problem::Internal.into_response()
        }
    }
}

impl Monitor {
    async fn sample(&self) -> Result<(), sqlx::Error> {
        let relays: Vec<_> =
            self.relays.iter().map(|(shard, relay)| (*shard, relay.borrow().clone())).collect();
        let projections: &[&str] = if self.verdict.is_some() { &PROJECTIONS } else { &[] };
        let mut connection = self.pool.acquire().await?;
        self.metrics.sample(&mut connection, &relays, projections, self.shards).await
    }

    /// Of the auditor, while it is the one of all processes that audits, and can tell.
    fn register_verdict(&self, registry: &mut Registry) {
        let Some(verdict) = self.verdict.as_ref().and_then(|verdict| verdict.borrow().clone()) else {
            return;
        };
        let gauge = |value: i64| {
            let gauge = Gauge::<i64>::default();
            gauge.set(value);
            gauge
        };
        let finished = verdict.finished_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        registry.register(
            "audit_balanced",
            "1 when nothing differs but what is on its way",
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
