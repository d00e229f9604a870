//! A campaign: which coupons are given, how many, how many to one user, and when. Here are its rules; [`store`] reads
//! its rows. [`change`] changes it for those who ask, and [`clock`] when its time has come; both write through `record`,
//! which also keeps the log that [`changes`] shows.

pub mod change;
pub mod changes;
pub mod clock;
pub mod draft;
pub mod duration;
pub mod edit;
mod error;
mod published;
mod queues;
mod record;
pub mod store;
pub mod sweep;
pub mod synced;
mod transaction;

use std::str::FromStr;
use std::time::Duration;

use outbox_relay::Shard;
use serde::{Deserialize, Serialize, Serializer};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};
use time::OffsetDateTime;
use utoipa::ToSchema;

pub use crate::event::SettleOn;
use crate::ids::{CampaignId, MerchantId};
use crate::money::Money;

/// The state of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[schema(as = CampaignState)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum State {
    Draft,
    Scheduled,
    Open,
    Paused,
    Closed,
}

/// The text names no [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {}", State::ALL.map(State::as_str).join(", "))]
pub struct StateError;

impl FromStr for State {
    type Err = StateError;

    fn from_str(word: &str) -> Result<Self, StateError> {
        Self::ALL.into_iter().find(|state| state.as_str() == word).ok_or(StateError)
    }
}

impl State {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Draft, Self::Scheduled, Self::Open, Self::Paused, Self::Closed];

    /// The word for it, in the database and everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Scheduled => "scheduled",
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Closed => "closed",
        }
    }

    /// The state after an operator opens a campaign; nothing when it cannot be opened. Opening an open campaign changes
    /// nothing.
    #[must_use]
    pub fn opened(
        self,
        opens_at: OffsetDateTime,
        closes_at: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Option<Self> {
        match self {
            Self::Closed => None,
            Self::Draft | Self::Scheduled | Self::Open | Self::Paused if closes_at <= now => None,
            // A campaign that is open, or was, may be ahead of this clock, because the gate's clock opened it.
            Self::Draft | Self::Scheduled if opens_at > now => Some(Self::Scheduled),
            Self::Draft | Self::Scheduled | Self::Open | Self::Paused => Some(Self::Open),
        }
    }

    /// The state after an operator pauses a campaign that is in this state at that moment; nothing when it cannot be paused.
    /// Pausing a paused campaign changes nothing.
    #[must_use]
    pub fn paused(self) -> Option<Self> {
        match self {
            Self::Open | Self::Paused => Some(Self::Paused),
            Self::Draft | Self::Scheduled | Self::Closed => None,
        }
    }

    /// The state at `now`, when nobody but time changes it.
    #[must_use]
    pub fn due(self, opens_at: OffsetDateTime, closes_at: OffsetDateTime, now: OffsetDateTime) -> Self {
        match self {
            Self::Scheduled | Self::Open | Self::Paused if closes_at <= now => Self::Closed,
            Self::Scheduled if opens_at <= now => Self::Open,
            Self::Draft | Self::Scheduled | Self::Open | Self::Paused | Self::Closed => self,
        }
    }
}

/// When the coupons of a campaign expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    At(OffsetDateTime),
    /// This long after the issue, in whole seconds.
    After(Duration),
}

/// A campaign as the database holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Campaign {
    pub id: CampaignId,
    #[serde(skip)]
    pub shard: Shard,
    pub name: String,
    pub merchant_id: MerchantId,
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub face_value: Money,
    pub quantity: i32,
    /// What all coupons may be worth together, in minor units; nothing if the quantity alone is the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<i64>,
    pub per_user_limit: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub opens_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub closes_at: OffsetDateTime,
    #[serde(flatten, serialize_with = "expiry_fields")]
    #[sqlx(flatten)]
    pub expiry: Expiry,
    pub settle_on: SettleOn,
    /// A claim without an idempotency key is refused.
    pub require_idempotency_key: bool,
    /// A cancelled coupon puts its seat back on sale.
    pub restock_on_cancel: bool,
    pub state: State,
    pub version: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was closed; nothing as long as it is not, or if the version before this one has closed it.
    #[serde(skip)]
    pub closed_at: Option<OffsetDateTime>,
    /// Coupons that were cancelled and whose seats are back on sale.
    #[serde(skip)]
    pub returned: i32,
}

impl Campaign {
    /// Coupons at most, by their numbers: the quantity, or fewer if the budget pays for fewer, and as many more as have put their
    /// seats back on sale.
    #[must_use]
    pub fn coupons_max(&self) -> i32 {
        let paid = self.budget.map(|budget| budget / self.face_value.minor.max(1));
        let paid = paid.and_then(|paid| i32::try_from(paid).ok()).unwrap_or(i32::MAX);
        paid.min(self.quantity).saturating_add(self.returned)
    }

    /// When it takes no more claims: its end, or the close before that.
    #[must_use]
    pub fn over_at(&self) -> OffsetDateTime {
        self.closed_at.map_or(self.closes_at, |closed_at| closed_at.min(self.closes_at))
    }
}

/// Reads the columns `coupon_expires_at` and `coupon_valid_for` (seconds), of which one is NULL.
impl FromRow<'_, PgRow> for Expiry {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let valid_for: Option<i64> = row.try_get("coupon_valid_for")?;
        Ok(match valid_for {
            Some(seconds) => Self::After(Duration::from_secs(seconds.unsigned_abs())),
            None => Self::At(row.try_get("coupon_expires_at")?),
        })
    }
}

fn expiry_fields<S: Serializer>(expiry: &Expiry, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Field {
        CouponExpiresAt(#[serde(with = "time::serde::rfc3339")] OffsetDateTime),
        CouponValidFor(String),
    }
    match expiry {
        Expiry::At(time) => Field::CouponExpiresAt(*time),
        Expiry::After(duration) => Field::CouponValidFor(duration::format_duration(*duration)),
    }
    .serialize(serializer)
}
