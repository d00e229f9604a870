//! What a user holds.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::json;

use super::extract::{Authorized, Paged};
use super::problem::Problem;
use super::{Api, json};
use crate::ids::FieldProblem;
use crate::ids::UserId;
use crate::wallet;

const STATUSES: [&str; 5] = ["usable", "issued", "redeemed", "cancelled", "expired"];

/// `GET /v1/users/{user_id}/coupons`
pub(super) async fn coupons(
    State(api): State<Arc<Api>>,
    _: Authorized,
    user: Result<Path<String>, PathRejection>,
    Paged(page): Paged,
) -> Result<Response, Problem> {
    let invalid = |field: &str, reason: String| Problem::Invalid(vec![FieldProblem::new(field, reason)]);
    // What is no UTF-8 is no visible ASCII either.
    let Path(user) = user.unwrap_or_else(|_| Path(String::new()));
    let user = UserId::parse(user).map_err(|error| invalid("user_id", error.to_string()))?;
    if page.status.as_deref().is_some_and(|status| !STATUSES.contains(&status)) {
        return Err(invalid("status", format!("must be one of {}", STATUSES.join(", "))));
    }
    let coupons = wallet::page(&api.pool, &user, page.status.as_deref(), page.before, page.limit).await?;
    let full = coupons.len() as i64 == page.limit;
    let next = coupons.last().filter(|_| full).map(|coupon| coupon.id);
    Ok(json(&json!({ "coupons": coupons, "next": next })))
}
