//! A change of a coupon: as it is asked for, as it is made, and why it is not made.

use std::time::Instant;

use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use crate::cause::Cause;
use crate::idempotency::Keyed;
use crate::ids::{CampaignId, CouponId, MerchantId, OrderRef, UserId};
use crate::money::Currency;
use crate::writer::WriteError;

/// What a change makes of a coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum ChangeKind {
    Redeemed,
    /// The redemption is taken back.
    Restored,
    Cancelled,
    Expired,
}

impl ChangeKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Redeemed, Self::Restored, Self::Cancelled, Self::Expired];

    /// The word for it, in the database and as the type of its event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redeemed => "redeemed",
            Self::Restored => "restored",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// A change that is asked for, and what the caller supposes of the coupon. If that is wrong, the change is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub kind: ChangeKind,
    /// The order that redeems the coupon, or whose redemption is restored.
    pub order_ref: Option<OrderRef>,
    /// What is redeemed, in minor units; nothing for the face value.
    pub amount: Option<i64>,
    pub holder: Option<UserId>,
    pub merchant: Option<MerchantId>,
    pub currency: Option<Currency>,
    /// Nothing is written.
    pub is_tried: bool,
}

impl Wanted {
    /// A change that supposes nothing.
    #[must_use]
    pub fn of(kind: ChangeKind) -> Self {
        let (order_ref, amount, holder, merchant, currency) = (None, None, None, None, None);
        Self { kind, order_ref, amount, holder, merchant, currency, is_tried: false }
    }
}

/// A change of a coupon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CouponChange {
    pub coupon_id: CouponId,
    pub campaign_id: CampaignId,
    pub user_id: UserId,
    /// Which change of the coupon, from 1.
    pub nth: i32,
    pub kind: ChangeKind,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The caller: `administrator`, `token:` and the id of an API token, or `user:` and the id of an end user; `clock` if the
    /// time had come.
    pub actor: String,
    pub request_id: Option<String>,
    /// The order of the redemption, or of the one that is restored.
    pub order_ref: Option<String>,
    /// What is redeemed or restored, in minor units of the currency.
    pub amount: Option<i64>,
    pub currency: Currency,
}

/// Why a coupon is not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    NotTheHolder,
    AnotherMerchant,
    AnotherCurrency,
    AnotherOrder,
    AmountTooHigh,
    AlreadyRedeemed,
    Cancelled,
    Expired,
    NotRedeemed,
    OrderRefUsed,
    /// Its time has not come. Only the clock asks.
    NotDue,
}

impl Reason {
    /// All reasons.
    const ALL: [(&str, Self); 11] = [
        ("not-the-holder", Self::NotTheHolder),
        ("another-merchant", Self::AnotherMerchant),
        ("another-currency", Self::AnotherCurrency),
        ("another-order", Self::AnotherOrder),
        ("amount-too-high", Self::AmountTooHigh),
        ("already-redeemed", Self::AlreadyRedeemed),
        ("cancelled", Self::Cancelled),
        ("expired", Self::Expired),
        ("not-redeemed", Self::NotRedeemed),
        ("order-ref-used", Self::OrderRefUsed),
        ("not-due", Self::NotDue),
    ];

    /// The reason that `change_coupons()` names so.
    pub(super) fn named(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == word).map(|(_, reason)| *reason)
    }
}

/// What Postgres decides about a change. What is changed is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Whether the seat of the coupon is back on sale stands beside it.
    Changed(CouponChange, bool),
    /// The same request, or an equal redemption for the order, has made this change before.
    Replayed(CouponChange),
    /// It was tried, and nothing stands against it.
    Possible,
    /// With the last change of the coupon, if it has one.
    Refused(Vec<Reason>, Option<CouponChange>),
    /// Another request has used the idempotency key.
    KeyReused,
    NoSuchCoupon,
}

/// A change on its way through a writer, which answers it.
#[derive(Debug)]
pub struct Asked {
    pub(super) coupon: CouponId,
    pub(super) campaign: CampaignId,
    pub(super) wanted: Wanted,
    /// The request; nothing if the time has come.
    pub(super) cause: Option<Cause>,
    /// The request as its idempotency key knows it, if it has one.
    pub(super) keyed: Option<Keyed>,
    /// When the caller asked.
    pub(super) since: Instant,
    pub(super) reply: oneshot::Sender<Result<Outcome, WriteError>>,
}
