//! Coupons.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::extract::{Authorized, Id};
use super::problem::Problem;
use super::{Api, json};
use crate::coupon;
use crate::ids::CouponId;

/// `GET /v1/coupons/{id}`
pub(super) async fn show(State(api): State<Arc<Api>>, _: Authorized, id: Id) -> Result<Response, Problem> {
    let coupon = coupon::store::get(&api.pool, CouponId(id.0)).await?;
    coupon.map(|coupon| json(&coupon)).ok_or(Problem::NotFound("There is no such coupon."))
}
