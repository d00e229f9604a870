//! What a user holds.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;

use super::answer::{Answer, Listed};
use super::api::Api;
use super::caller::Caller;
use super::extract::{ListQuery, User};
use super::problem::{NOTHING_CHANGED, Problem};
use crate::ids::CouponId;
use crate::wallet::{Shown, WalletCoupon};

/// `GET /v1/users/{user_id}/coupons`. To an end user no other user exists, whether or not they hold coupons.
pub(super) async fn coupons(
    State(api): State<Arc<Api>>,
    caller: Caller,
    User(user): User,
    uri: Uri,
) -> Result<Answer<Listed<WalletCoupon, CouponId>>, Problem> {
    if !caller.sees(&user) {
        return Err(Problem::not_found("No user has this id."));
    }
    let query = ListQuery::<Shown>::parse(&uri, "status");
    let ListQuery { page, filter } = query.map_err(|errors| Problem::invalid(&errors))?;
    let shown = filter.unwrap_or(Shown::All);
    let page = api.wallets.page(user, shown, page).await;
    let page = page.map_err(|error| Problem::storage(error, NOTHING_CHANGED))?;
    Ok(Answer::Ok(Listed { name: "coupons", page }))
}
