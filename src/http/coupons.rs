//! Coupons, by id and by code.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;

use super::answer::{Answer, Listed};
use super::api::Api;
use super::caller::Caller;
use super::extract::{Id, NoQuery, one_parameter};
use super::problem::{NOTHING_CHANGED, Problem};
use crate::coupon::Coupon;
use crate::coupon::code::Code;
use crate::ids::CouponId;
use crate::page::{Page, PageLimit};

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
    seen.map(Answer::Ok).ok_or_else(Problem::no_coupon)
}

/// `GET /v1/coupons`: those with a code, of which there is one at most.
pub(super) async fn find(
    State(api): State<Arc<Api>>,
    uri: Uri,
) -> Result<Answer<Listed<Coupon, CouponId>>, Problem> {
    let code: Code = one_parameter(&uri, "code").map_err(|errors| Problem::invalid(&errors))?;
    let found = api.coupons.find(code).await.map_err(|error| Problem::storage(error, NOTHING_CHANGED))?;
    let page = Page::new(found.into_iter().collect(), PageLimit::default(), |coupon: &Coupon| coupon.id);
    Ok(Answer::Ok(Listed { name: "coupons", page }))
}
