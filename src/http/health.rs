//! Whether the process lives, and whether it can serve.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State as NatsState;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use tokio::time::timeout;

use super::{Api, json};

const DATABASE_TIMEOUT: Duration = Duration::from_secs(1);

/// `GET /livez`: the process answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: whether claims can be served, and what is away. Without NATS they can: the outbox
/// keeps what it does not get.
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Response {
    let postgres =
        timeout(DATABASE_TIMEOUT, sqlx::query("SELECT 1").execute(&api.pool)).await.is_ok_and(|r| r.is_ok())
            && api.issuer.can_write();
    let redis = api.issuer.gate().is_reachable();
    let nats = api.nats.connection_state() == NatsState::Connected;
    let halted: Vec<String> =
        api.relays.iter().filter_map(|relay| Some(relay.borrow().halted.as_ref()?.to_string())).collect();
    let ready = postgres && redis;
    let status = match (ready, nats && halted.is_empty()) {
        (true, true) => "ready",
        (true, false) => "degraded",
        (false, _) => "unready",
    };
    let word = |up| if up { "up" } else { "down" };
    let body = json(&json!({
        "status": status, "postgres": word(postgres), "redis": word(redis), "nats": word(nats), "halted": halted,
    }));
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body).into_response()
}
