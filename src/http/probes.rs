//! What watches over a process asks: whether it lives, whether it can serve, and what it measures.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, header};
use prometheus_client::encoding::text::encode;

use super::answer::Answer;
use super::extract::NoQuery;
use super::problem::Problem;
use crate::health::{Health, Readiness};

/// The text format of `OpenMetrics`.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /livez`: the process answers.
pub(super) async fn live(_: NoQuery) -> &'static str {
    "ok\n"
}

/// `GET /readyz`: whether the process can do its work, and what is missing.
pub(super) async fn ready(State(health): State<Arc<Health>>, _: NoQuery) -> Answer<Readiness> {
    let readiness = health.readiness();
    if readiness.is_ready() { Answer::Ok(readiness) } else { Answer::Unready(readiness) }
}

/// `GET /metrics`
pub(super) async fn metrics(
    State(health): State<Arc<Health>>,
    _: NoQuery,
) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    let registry = health.metrics();
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|error| Problem::internal("the metrics cannot be written", error))?;
    Ok(([(header::CONTENT_TYPE, METRICS_TYPE)], text))
}
