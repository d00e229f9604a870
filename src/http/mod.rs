//! The API over HTTP: one file a resource.

mod campaigns;
mod claim;
mod coupons;
mod extract;
mod monitor;
mod problem;
pub mod server;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use sqlx::PgPool;

pub use self::monitor::Monitor;
use self::problem::Problem;
use crate::config::Secret;
use crate::issue::Issuer;

/// What the routes of the API need.
#[derive(Debug)]
pub struct Api {
    pub pool: PgPool,
    pub issuer: Arc<Issuer>,
    pub admin_token: Option<Secret>,
    pub shards: i16,
}

/// All routes of a process: those of the API where it has that role, and those that watch over it.
pub fn router(api: Option<Api>, monitor: Monitor) -> Router {
    let monitor = Router::new()
        .route("/livez", get(monitor::livez))
        .route("/readyz", get(monitor::readyz))
        .route("/metrics", get(monitor::metrics))
        .with_state(Arc::new(monitor));
    let api = api.map_or_else(Router::new, |api| {
        Router::new()
            .route("/v1/campaigns", post(campaigns::create).get(campaigns::list))
            .route("/v1/campaigns/{id}", get(campaigns::show))
            .route("/v1/campaigns/{id}/open", post(campaigns::open))
            .route("/v1/campaigns/{id}/close", post(campaigns::close))
            .route("/v1/campaigns/{id}/coupons", post(claim::claim))
            .route("/v1/coupons/{id}", get(coupons::show))
            .route("/v1/users/{user_id}/coupons", get(users::coupons))
            .with_state(Arc::new(api))
    });
    api.merge(monitor)
        .fallback(async || Problem::NotFound("There is no such route."))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(DefaultBodyLimit::disable()) // bodies are read by extract::Json, with its own limit
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
