//! Coupons.

use std::sync::Arc;

use axum::extract::State;

use super::answer::Answer;
use super::api::Api;
use super::caller::Caller;
use super::extract::{Id, NoQuery};
use super::problem::{NOTHING_CHANGED, Problem};
use crate::coupon::Coupon;
use crate::ids::CouponId;

/// `GET /v1/coupons/{id}`
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id<CouponId>,
    _: NoQuery,
) -> Result<Answer<Coupon>, Problem> {
    let found = api.coupons.get(id).await.map_err(|error| Problem::storage(error, NOTHING_CHANGED))?;
    // A coupon that the caller may not see is looked up like any other, and answered like one that does not exist.
    let seen = found.filter(|coupon| caller.sees(&coupon.user_id));
    seen.map(Answer::Ok).ok_or_else(|| Problem::not_found("No coupon has this id."))
}
