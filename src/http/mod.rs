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
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use sqlx::PgPool;
use tokio::sync::Semaphore;

pub use self::monitor::Monitor;
use self::problem::Problem;
pub use self::server::Threads;
use crate::campaign::change::Campaigns;
use crate::config::Secret;
use crate::issue::Issuer;

/// For those who attack them: parsers that nobody else calls from outside.
#[doc(hidden)]
pub mod parsers {
    pub use axum::http::Uri;

    pub use super::claim::ClaimBody;
    pub use super::extract::{Page, is_authorized, parse_body};
}

/// What the routes of the API need.
#[derive(Debug)]
pub struct Api {
    pub pool: PgPool,
    pub issuer: Arc<Issuer>,
    pub campaigns: Campaigns<Arc<Issuer>>,
    pub admin_token: Option<Secret>,
}

/// Requests in progress that ask Postgres themselves, at the most; more are refused at once. They share
/// the few connections of the pool, and a reader who is queued behind so many still waits far less than
/// the pool's `ACQUIRE_TIMEOUT`.
const READERS_MAX: usize = 512;

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
            .route("/v1/coupons/{id}", get(coupons::show))
            .route("/v1/users/{user_id}/coupons", get(users::coupons))
            .layer(from_fn_with_state(Arc::new(Semaphore::new(READERS_MAX)), bounded))
            .route("/v1/campaigns/{id}/coupons", post(claim::claim)) // the issuer bounds these
            .with_state(Arc::new(api))
    });
    api.merge(monitor)
        .fallback(async || Problem::NotFound("There is no such route."))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(DefaultBodyLimit::disable()) // bodies are read by extract::Json, with its own limit
}

/// Lets a request through if there is a place for it.
async fn bounded(State(places): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match places.try_acquire() {
        Ok(_place) => next.run(request).await,
        Err(_) => Problem::Overloaded.into_response(),
    }
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
