//! The answers of a process that waits for Postgres and has not begun to serve.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;

use super::answer::Answer;
use super::problem::Problem;
use super::routes;
use crate::health::Readiness;

/// What a retry does: nothing has happened.
const STARTING: &str = "Retry: the service is starting, and waits for Postgres.";

/// What needs no server is answered, `/readyz` says what is missing, and everything else is refused with 503.
pub fn starting() -> Router {
    routes::always()
        .route("/readyz", get(async || Answer::Unready(Readiness::starting())))
        .fallback(async || Problem::storage_unavailable(STARTING))
        .layer(map_response(async |mut answer: Response| {
            // The next connection may find another router.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            answer
        }))
}
