//! Coupons in answers, as the document describes them. Nothing is made of these types: the tests compare the answers of the
//! service with them.

#![expect(dead_code, reason = "only their schemas are used")]

use utoipa::ToSchema;

use crate::coupon::CouponState;
use crate::lifecycle::{ChangeKind, Reason};

/// A coupon.
#[derive(ToSchema)]
pub(super) struct Coupon {
    /// A ULID.
    id: String,
    /// A ULID.
    campaign_id: String,
    user_id: String,
    /// Serial within the campaign, from 1, without gaps.
    number: i32,
    /// A secret of the holder.
    code: String,
    state: CouponState,
    #[schema(format = DateTime)]
    issued_at: String,
    #[schema(format = DateTime)]
    expires_at: String,
}

/// The coupons that were found.
#[derive(ToSchema)]
pub(super) struct CouponPage {
    coupons: Vec<Coupon>,
    /// The cursor of the next page; null at the end.
    #[schema(required = true)]
    next: Option<String>,
}

/// A coupon in a wallet.
#[derive(ToSchema)]
pub(super) struct WalletCoupon {
    /// A ULID.
    id: String,
    /// A ULID.
    campaign_id: String,
    number: i32,
    /// In minor units of the currency.
    face_value: i64,
    currency: String,
    state: CouponState,
    #[schema(format = DateTime)]
    issued_at: String,
    #[schema(format = DateTime)]
    expires_at: String,
    /// Whether its state is `issued`.
    usable: bool,
}

/// A page of a wallet, the newest coupon first.
#[derive(ToSchema)]
pub(super) struct WalletPage {
    coupons: Vec<WalletCoupon>,
    /// The cursor of the next page; null at the end.
    #[schema(required = true)]
    next: Option<String>,
}

/// A change of a coupon.
#[derive(ToSchema)]
pub(super) struct CouponChange {
    /// A ULID.
    coupon_id: String,
    /// A ULID.
    campaign_id: String,
    user_id: String,
    /// Which change of the coupon, from 1.
    nth: i32,
    kind: ChangeKind,
    #[schema(format = DateTime)]
    at: String,
    /// The caller: `administrator`, `token:` and the id of an API token, or `user:` and the id of an end user; `clock` if the time
    /// had come.
    actor: String,
    /// The request; null if there was none.
    #[schema(required = true)]
    request_id: Option<String>,
    /// The order that was redeemed or restored; null if the coupon was cancelled or has expired.
    #[schema(required = true)]
    order_ref: Option<String>,
    /// What was redeemed or restored, in minor units of the currency.
    #[schema(required = true)]
    amount: Option<i64>,
    currency: String,
}

/// A page of changes of a coupon, the newest first.
#[derive(ToSchema)]
pub(super) struct CouponChangePage {
    changes: Vec<CouponChange>,
    /// The cursor of the next page; null at the end.
    #[schema(required = true)]
    next: Option<String>,
}

/// What a redemption would come to.
#[derive(ToSchema)]
pub(super) struct Trial {
    redeemable: bool,
    /// All that stands against it.
    reasons: Vec<Reason>,
    /// The last change of the coupon; null if there is none.
    #[schema(required = true)]
    last_change: Option<CouponChange>,
}
