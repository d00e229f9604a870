//! The events that this service publishes. A change of a type's data never breaks a reader: one that would is a new
//! version of the type.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use outbox_relay::projection::ApplyError;
use outbox_relay::strict::from_object;
use outbox_relay::{Event, Outlet};
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;
use ulid::Ulid;
use utoipa::ToSchema;

use crate::ids::{CampaignId, CouponId};
use crate::money::Currency;

/// Streams `COUPONS-<shard>`, subjects `coupons.<type>.<campaign id>.<shard>`.
/// Without the deployment, which [`Connections::open`](crate::connections::Connections::open) adds.
pub const OUTLET: Outlet = Outlet {
    stream: "COUPONS",
    subjects: "coupons",
    types: "coupon",
    source: "/coupon-dispatcher",
    deployment: None,
};

/// A coupon is issued. Its data is written by `issue_batch_2()`, in SQL.
pub const ISSUED: &str = "issued";
/// A coupon is used for an order. This and the next three are written by `change_coupons()`, in SQL.
pub const REDEEMED: &str = "redeemed";
/// The redemption of a coupon is taken back.
pub const RESTORED: &str = "restored";
/// A coupon is cancelled.
pub const CANCELLED: &str = "cancelled";
/// A coupon has come to its end.
pub const EXPIRED: &str = "expired";
/// A campaign takes claims from now on.
pub const CAMPAIGN_OPENED: &str = "campaign-opened";
/// The last coupon is issued. Written by `issue_batch_2()`.
pub const CAMPAIGN_SOLD_OUT: &str = "campaign-sold-out";
/// A campaign that has been opened was changed.
pub const CAMPAIGN_CHANGED: &str = "campaign-changed";
/// A campaign takes no more claims.
pub const CAMPAIGN_CLOSED: &str = "campaign-closed";

/// All types, as filters name them.
pub const KINDS: [&str; 9] = [
    ISSUED,
    REDEEMED,
    RESTORED,
    CANCELLED,
    EXPIRED,
    CAMPAIGN_OPENED,
    CAMPAIGN_SOLD_OUT,
    CAMPAIGN_CHANGED,
    CAMPAIGN_CLOSED,
];

/// The type of [`ISSUED`] as its body has it.
pub const ISSUED_V1: &str = "coupon.issued.v1";

/// The types of changes of a coupon.
pub(crate) const CHANGES: [&str; 4] = [REDEEMED, RESTORED, CANCELLED, EXPIRED];

/// Which event makes a coupon count for the merchant in the settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum SettleOn {
    Redeem,
    Issue,
}

/// Data of `coupon.issued.v1`. The code is a secret of the holder and is not published.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Issued<'a> {
    #[serde(deserialize_with = "parsed")]
    pub coupon_id: CouponId,
    #[serde(deserialize_with = "parsed")]
    pub campaign_id: CampaignId,
    #[serde(borrow)]
    pub user_id: Cow<'a, str>,
    /// Serial within the campaign, from 1, without gaps.
    #[schemars(range(min = 1))]
    pub number: i32,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "Time")]
    pub issued_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "Time")]
    pub expires_at: OffsetDateTime,
    #[serde(borrow)]
    pub merchant_id: Cow<'a, str>,
    /// In minor units of the currency.
    pub face_value: i64,
    /// A code of ISO 4217.
    #[serde(deserialize_with = "parsed")]
    pub currency: Currency,
    pub settle_on: SettleOn,
}

/// Data of `coupon.cancelled.v1` and `coupon.expired.v1`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CouponChanged<'a> {
    #[serde(deserialize_with = "parsed")]
    pub coupon_id: CouponId,
    #[serde(deserialize_with = "parsed")]
    pub campaign_id: CampaignId,
    #[serde(borrow)]
    pub user_id: Cow<'a, str>,
    /// Which change of the coupon, from 1, without gaps.
    #[schemars(range(min = 1))]
    pub nth: i32,
    /// When it was changed.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "Time")]
    pub at: OffsetDateTime,
    #[serde(borrow)]
    pub merchant_id: Cow<'a, str>,
    /// In minor units of the currency.
    pub face_value: i64,
    /// A code of ISO 4217.
    #[serde(deserialize_with = "parsed")]
    pub currency: Currency,
    pub settle_on: SettleOn,
}

/// Data of `coupon.redeemed.v1` and `coupon.restored.v1`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CouponUsed<'a> {
    #[serde(borrow, flatten)]
    pub change: CouponChanged<'a>,
    /// The order that redeems the coupon, or whose redemption is restored.
    #[serde(borrow)]
    pub order_ref: Cow<'a, str>,
    /// What is redeemed or restored, in minor units.
    #[schemars(range(min = 1))]
    pub amount: i64,
}

/// Data of `coupon.campaign-opened.v1` and `coupon.campaign-closed.v1`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct CampaignPhase<'a> {
    #[serde(deserialize_with = "parsed")]
    pub campaign_id: CampaignId,
    #[serde(borrow)]
    pub merchant_id: Cow<'a, str>,
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    #[schemars(range(min = 1))]
    pub quantity: i32,
    /// The version of the campaign after the change.
    #[schemars(range(min = 1))]
    pub version: i32,
}

/// Data of `coupon.campaign-changed.v1`: the campaign after the change.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct CampaignChanged<'a> {
    #[serde(deserialize_with = "parsed")]
    pub campaign_id: CampaignId,
    #[serde(borrow)]
    pub merchant_id: Cow<'a, str>,
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    #[schemars(range(min = 1))]
    pub quantity: i32,
    /// What all coupons may be worth together, in minor units of the currency; missing if the quantity alone is the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), with = "i64")]
    pub budget: Option<i64>,
    #[schemars(range(min = 1))]
    pub per_user_limit: i32,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "Time")]
    pub opens_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "Time")]
    pub closes_at: OffsetDateTime,
    pub state: Taking,
    /// The version of the campaign after the change.
    #[schemars(range(min = 1))]
    pub version: i32,
}

/// Whether a campaign that has been opened takes claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Taking {
    Open,
    Paused,
}

/// Data of `coupon.campaign-sold-out.v1`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct CampaignSoldOut<'a> {
    #[serde(deserialize_with = "parsed")]
    pub campaign_id: CampaignId,
    #[serde(borrow)]
    pub merchant_id: Cow<'a, str>,
    /// Coupons that are issued.
    #[schemars(range(min = 1))]
    pub quantity: i32,
}

/// A time of RFC 3339.
#[derive(JsonSchema)]
#[schemars(extend("format" = "date-time"))]
struct Time(#[expect(dead_code, reason = "only its schema is used")] String);

/// Parses a string without a copy of it.
fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<T, D::Error> {
    <&str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// The issues among a batch of events, each with the id of its event.
pub(crate) fn issues(events: &[Event]) -> Result<Vec<(Ulid, Issued<'_>)>, ApplyError> {
    let mut all = Vec::with_capacity(events.len());
    for event in events.iter().filter(|event| event.kind == ISSUED_V1) {
        let issued = from_object(&event.data);
        let issued = issued.map_err(|source| ApplyError::Unreadable { position: event.position, source })?;
        all.push((event.id, issued));
    }
    Ok(all)
}

/// A change of a coupon, as an event tells it.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    /// [`REDEEMED`], [`RESTORED`], [`CANCELLED`] or [`EXPIRED`].
    pub(crate) kind: &'static str,
    pub(crate) data: CouponChanged<'a>,
    /// The order and the amount of what is redeemed or restored.
    pub(crate) used: Option<(Cow<'a, str>, i64)>,
}

impl<'a> Change<'a> {
    /// Reads the data of an event of this kind; nothing if it is no change of a coupon.
    pub(crate) fn read(kind: &str, data: &'a [u8]) -> Option<Result<Self, serde_json::Error>> {
        let kind = CHANGES.into_iter().find(|known| *known == kind)?;
        if [REDEEMED, RESTORED].contains(&kind) {
            let used = from_object::<CouponUsed<'_>>(data);
            return Some(used.map(|CouponUsed { change, order_ref, amount }| Self {
                kind,
                data: change,
                used: Some((order_ref, amount)),
            }));
        }
        Some(from_object(data).map(|data| Self { kind, data, used: None }))
    }
}

/// The changes of coupons among a batch of events, each with the id of its event.
pub(crate) fn changes(events: &[Event]) -> Result<Vec<(Ulid, Change<'_>)>, ApplyError> {
    let mut all = Vec::new();
    for event in events {
        let kind = event.kind.strip_prefix("coupon.").and_then(|kind| kind.strip_suffix(".v1"));
        let Some(change) = kind.and_then(|kind| Change::read(kind, &event.data)) else { continue };
        let change = change.map_err(|source| ApplyError::Unreadable { position: event.position, source })?;
        all.push((event.id, change));
    }
    Ok(all)
}
