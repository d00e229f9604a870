//! The API over HTTP: one file a resource.

mod campaigns;
mod claim;
mod coupons;
mod extract;
mod health;
mod problem;
pub mod server;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use outbox_relay::RelayStatus;
use serde::Serialize;
use sqlx::PgPool;
use tokio::sync::watch;

use self::problem::Problem;
use crate::config::Secret;
use crate::issue::Issuer;

/// What the routes need.
#[derive(Debug)]
pub struct Api {
    pub pool: PgPool,
    pub issuer: Issuer,
    pub nats: async_nats::Client,
    pub admin_token: Option<Secret>,
    pub shards: i16,
    /// Of the relays in this process.
    pub relays: Arc<[watch::Receiver<RelayStatus>]>,
}

/// All routes.
pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/v1/campaigns", post(campaigns::create).get(campaigns::list))
        .route("/v1/campaigns/{id}", get(campaigns::show))
        .route("/v1/campaigns/{id}/open", post(campaigns::open))
        .route("/v1/campaigns/{id}/close", post(campaigns::close))
        .route("/v1/campaigns/{id}/coupons", post(claim::claim))
        .route("/v1/coupons/{id}", get(coupons::show))
        .route("/v1/users/{user_id}/coupons", get(users::coupons))
        .fallback(async || Problem::NotFound("There is no such route."))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(DefaultBodyLimit::disable()) // bodies are read by extract::Json, with its own limit
        .with_state(api)
}

/// A body in JSON.
fn json(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => {
            let content_type = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, content_type)], body).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            Problem::Internal.into_response()
        }
    }
}
