//! A campaign: what is given away, how much of it, to whom, and when. Pure rules; rows are the
//! [`store`]'s.

pub mod draft;
pub mod store;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use outbox_relay::Shard;
use outbox_relay::event::id_of;
use serde::{Deserialize, Serialize, Serializer};
use time::OffsetDateTime;
use ulid::Ulid;

/// Identity of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CampaignId(pub Ulid);

impl CampaignId {
    /// The shard of a new campaign among `shards`.
    #[must_use]
    pub fn shard(self, shards: i16) -> Shard {
        // The low bits of a ULID are random.
        let shard = self.0.0 % u128::from(shards.unsigned_abs().max(1));
        Shard(i16::try_from(shard).unwrap_or_default())
    }
}

impl fmt::Display for CampaignId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is no id of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a ULID")]
pub struct CampaignIdError;

impl FromStr for CampaignId {
    type Err = CampaignIdError;

    fn from_str(text: &str) -> Result<Self, CampaignIdError> {
        id_of(text).map(Self).ok_or(CampaignIdError)
    }
}

/// A name from outside, of a user or a merchant: 1 to 64 visible ASCII characters. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutsideId(Arc<str>);

/// What an outside id has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 visible ASCII characters")]
pub struct OutsideIdError;

impl OutsideId {
    /// # Errors
    /// See [`OutsideIdError`].
    pub fn parse(text: impl AsRef<str> + Into<Arc<str>>) -> Result<Self, OutsideIdError> {
        let fits = (1..=64).contains(&text.as_ref().len())
            && text.as_ref().bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text.into())) } else { Err(OutsideIdError) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for OutsideId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl From<&OutsideId> for Arc<str> {
    fn from(id: &OutsideId) -> Self {
        id.0.clone()
    }
}

/// A user, as the caller names him.
pub type UserId = OutsideId;
/// A merchant, as the caller names it.
pub type MerchantId = OutsideId;

/// Where a campaign stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Draft,
    Scheduled,
    Open,
    Paused,
    Closed,
}

/// Which event lets a coupon count for the merchant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SettleOn {
    Redeem,
    Issue,
}

/// A word that the database should not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown word {0:?}")]
pub struct UnknownWord(String);

impl State {
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

    /// The state after an operator opens a campaign, or nothing when that cannot be. To open what
    /// is open changes nothing.
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
            Self::Draft | Self::Scheduled | Self::Open | Self::Paused if opens_at > now => {
                Some(Self::Scheduled)
            }
            Self::Draft | Self::Scheduled | Self::Open | Self::Paused => Some(Self::Open),
        }
    }

    /// The state that time alone brings about.
    #[must_use]
    pub fn due(self, opens_at: OffsetDateTime, closes_at: OffsetDateTime, now: OffsetDateTime) -> Self {
        match self {
            Self::Scheduled | Self::Open | Self::Paused if closes_at <= now => Self::Closed,
            Self::Scheduled if opens_at <= now => Self::Open,
            Self::Draft | Self::Scheduled | Self::Open | Self::Paused | Self::Closed => self,
        }
    }
}

impl FromStr for State {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let all = [Self::Draft, Self::Scheduled, Self::Open, Self::Paused, Self::Closed];
        all.into_iter().find(|state| state.as_str() == word).ok_or_else(|| UnknownWord(word.to_owned()))
    }
}

impl SettleOn {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redeem => "redeem",
            Self::Issue => "issue",
        }
    }
}

impl FromStr for SettleOn {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let all = [Self::Redeem, Self::Issue];
        all.into_iter().find(|on| on.as_str() == word).ok_or_else(|| UnknownWord(word.to_owned()))
    }
}

/// Until when a coupon can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    At(OffsetDateTime),
    /// From its issue, in whole seconds.
    After(Duration),
}

/// A campaign as the database holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Campaign {
    pub id: CampaignId,
    #[serde(skip)]
    pub shard: Shard,
    pub name: String,
    pub merchant_id: MerchantId,
    /// Minor units of the currency.
    pub face_value: i64,
    pub currency: String,
    pub quantity: i32,
    pub per_user_limit: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub opens_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub closes_at: OffsetDateTime,
    #[serde(flatten, serialize_with = "expiry_fields")]
    pub expiry: Expiry,
    pub settle_on: SettleOn,
    pub state: State,
    pub version: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
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
        Expiry::After(duration) => Field::CouponValidFor(draft::format_duration(*duration)),
    }
    .serialize(serializer)
}
