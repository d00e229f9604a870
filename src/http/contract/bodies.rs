//! The bodies of requests, as the document describes them. Nothing is made of these types: the tests compare what the
//! service reads with them.

#![expect(dead_code, reason = "only their schemas are used")]

use utoipa::ToSchema;

use crate::campaign::SettleOn;

/// A campaign to create. Exactly one of `coupon_expires_at` and `coupon_valid_for` is given.
#[derive(ToSchema)]
pub(super) struct NewCampaign {
    /// In bytes, not all of them white space.
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: String,
    merchant_id: ExternalId,
    face_value: i64,
    /// A code of ISO 4217.
    currency: String,
    quantity: i64,
    /// What all coupons may be worth together, in minor units, at least `face_value`; without it `quantity` alone is the limit.
    budget: Option<i64>,
    /// Coupons of a user, at most; at most `quantity`; 1 if it is missing.
    #[schema(required = false)]
    per_user_limit: i64,
    /// In the years 1970 to 8999, as all times of a campaign.
    #[schema(format = DateTime)]
    opens_at: String,
    /// After `opens_at`, and in the future.
    #[schema(format = DateTime)]
    closes_at: String,
    /// Not before `closes_at`.
    #[schema(format = DateTime)]
    coupon_expires_at: Option<String>,
    #[schema(pattern = "^P([0-9]+W)?([0-9]+D)?(T([0-9]+H)?([0-9]+M)?([0-9]+S)?)?$")]
    coupon_valid_for: Option<String>,
    /// `redeem` if it is missing.
    #[schema(required = false)]
    settle_on: SettleOn,
    /// Whether a claim without an idempotency key is refused; false if it is missing.
    #[schema(required = false)]
    require_idempotency_key: bool,
    /// Whether a cancelled coupon puts its seat back on sale; false if it is missing.
    #[schema(required = false)]
    restock_on_cancel: bool,
}

/// Fields that a campaign is to have; the others stay as they are.
#[derive(ToSchema)]
pub(super) struct CampaignEdit {
    /// In bytes, not all of them white space.
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: Option<String>,
    merchant_id: Option<ExternalId>,
    face_value: Option<i64>,
    /// A code of ISO 4217.
    currency: Option<String>,
    /// At least as many as coupons are issued.
    quantity: Option<i64>,
    /// At least `face_value`, and what the coupons that are issued are worth.
    budget: Option<i64>,
    /// Coupons of a user, at most; at most `quantity`.
    per_user_limit: Option<i64>,
    #[schema(format = DateTime)]
    opens_at: Option<String>,
    /// After `opens_at`, and in the future.
    #[schema(format = DateTime)]
    closes_at: Option<String>,
    /// Not before `closes_at`. It takes the place of `coupon_valid_for`, and the other way round.
    #[schema(format = DateTime)]
    coupon_expires_at: Option<String>,
    #[schema(pattern = "^P([0-9]+W)?([0-9]+D)?(T([0-9]+H)?([0-9]+M)?([0-9]+S)?)?$")]
    coupon_valid_for: Option<String>,
    settle_on: Option<SettleOn>,
    /// Whether a claim without an idempotency key is refused.
    require_idempotency_key: Option<bool>,
    /// Whether a coupon that is cancelled from now on puts its seat back on sale.
    restock_on_cancel: Option<bool>,
}

/// A name that the caller gives: 1 to 64 visible ASCII characters, and neither `.` nor `..`.
#[derive(ToSchema)]
pub(super) struct ExternalId(String);

/// A claim of a coupon for a user.
#[derive(ToSchema)]
pub(super) struct Claim {
    /// An end user may leave it out, or names themselves. All other callers give it.
    #[schema(required = false)]
    user_id: ExternalId,
}

/// A redemption of a coupon. What is given beside `order_ref` and `amount` must be so, or the redemption is refused.
#[derive(ToSchema)]
pub(super) struct Redemption {
    /// The order for which the coupon is used. The same one of a merchant again shows the first answer.
    order_ref: ExternalId,
    /// In minor units, at most the face value, which it is if it is missing.
    amount: Option<i64>,
    /// That of the coupon: a code of ISO 4217.
    currency: Option<String>,
    /// The holder of the coupon.
    user_id: Option<ExternalId>,
    /// The merchant of the coupon's campaign.
    merchant_id: Option<ExternalId>,
}

/// A redemption of the coupon with a code.
#[derive(ToSchema)]
pub(super) struct RedemptionByCode {
    /// As it was read or typed: 20 characters, with hyphens, blanks or neither between them.
    code: String,
    /// The order for which the coupon is used. The same one of a merchant again shows the first answer.
    order_ref: ExternalId,
    /// In minor units, at most the face value, which it is if it is missing.
    amount: Option<i64>,
    /// That of the coupon: a code of ISO 4217.
    currency: Option<String>,
    /// The holder of the coupon.
    user_id: Option<ExternalId>,
    /// The merchant of the coupon's campaign.
    merchant_id: Option<ExternalId>,
}

/// What is restored.
#[derive(ToSchema)]
pub(super) struct Restoration {
    /// The order of the redemption that is taken back.
    order_ref: ExternalId,
}

/// An object without fields. The body may also be missing or `null`.
#[derive(ToSchema)]
pub(super) struct Nothing {}
