//! A coupon: a promise to one user, kept. Its id and code, and its rows in the [`store`].

pub mod changing;
pub mod code;
pub(crate) mod rising;
pub mod store;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::ids::{CampaignId, CouponId, UserId};

/// What has become of a coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum CouponState {
    Issued,
    Redeemed,
    Cancelled,
    Expired,
}

impl CouponState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Issued, Self::Redeemed, Self::Cancelled, Self::Expired];

    /// The word for it, in the database and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Redeemed => "redeemed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// Why a campaign gives a user no coupon. The gate and Postgres both answer so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All coupons are issued.
    SoldOut,
    /// Claims are not taken yet, or not at the moment.
    NotOpen,
    /// Claims are no longer taken.
    Closed,
}

/// A committed coupon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Coupon {
    pub id: CouponId,
    pub campaign_id: CampaignId,
    pub user_id: UserId,
    /// Serial within the campaign, from 1.
    pub number: i32,
    /// A secret: anybody who knows it may use the coupon.
    pub code: String,
    pub state: CouponState,
    #[serde(with = "time::serde::rfc3339")]
    pub issued_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}
