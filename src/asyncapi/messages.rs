//! The types of events, as the document tells of them.

use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

use crate::event::{
    CAMPAIGN_CHANGED, CAMPAIGN_CLOSED, CAMPAIGN_OPENED, CAMPAIGN_SOLD_OUT, CANCELLED, CampaignChanged,
    CampaignPhase, CampaignSoldOut, CouponChanged, CouponUsed, EXPIRED, ISSUED, Issued, KINDS, REDEEMED,
    RESTORED,
};

/// A type of event.
pub(super) struct Message {
    pub(super) kind: &'static str,
    /// The id of the operation that publishes it. It never changes.
    pub(super) operation: &'static str,
    pub(super) summary: &'static str,
    /// The schema of its data.
    pub(super) data: fn(SchemaGenerator) -> Schema,
    /// Data, as an example.
    pub(super) example: fn() -> Value,
}

pub(super) const CAMPAIGN: &str = "01M7WFKGE14NWN561KVXBYTJTX";
pub(super) const COUPON: &str = "01M7WFKGE14NWN561KVXBYTJTY";

/// Every type, in the order of [`KINDS`].
pub(super) static MESSAGES: [Message; KINDS.len()] = [
    Message {
        kind: ISSUED,
        operation: "publishIssued",
        summary: "A coupon is committed. Its code is a secret of the holder, and is not in the event.",
        data: SchemaGenerator::into_root_schema_for::<Issued<'static>>,
        example: || {
            json!({
                "coupon_id": COUPON, "campaign_id": CAMPAIGN, "user_id": "alice", "number": 1,
                "issued_at": "2026-11-27T18:00:01.25Z", "expires_at": "2026-12-27T18:00:01.25Z",
                "merchant_id": "shop-7", "face_value": 500, "currency": "EUR", "settle_on": "redeem",
            })
        },
    },
    Message {
        kind: REDEEMED,
        operation: "publishRedeemed",
        summary: "A coupon is used for an order.",
        data: SchemaGenerator::into_root_schema_for::<CouponUsed<'static>>,
        example: || change(1, Some("order-7")),
    },
    Message {
        kind: RESTORED,
        operation: "publishRestored",
        summary: "The redemption of a coupon is taken back: it can be used again, unless it has expired meanwhile.",
        data: SchemaGenerator::into_root_schema_for::<CouponUsed<'static>>,
        example: || change(2, Some("order-7")),
    },
    Message {
        kind: CANCELLED,
        operation: "publishCancelled",
        summary: "A coupon is cancelled for ever.",
        data: SchemaGenerator::into_root_schema_for::<CouponChanged<'static>>,
        example: || change(3, None),
    },
    Message {
        kind: EXPIRED,
        operation: "publishExpired",
        summary: "A coupon that was not used has come to its end. It cannot be used from its expires_at on; the event follows.",
        data: SchemaGenerator::into_root_schema_for::<CouponChanged<'static>>,
        example: || change(3, None),
    },
    Message {
        kind: CAMPAIGN_OPENED,
        operation: "publishCampaignOpened",
        summary: "Claims are taken from now on. It comes once, before every other event about the campaign.",
        data: SchemaGenerator::into_root_schema_for::<CampaignPhase<'static>>,
        example: || phase(2),
    },
    Message {
        kind: CAMPAIGN_SOLD_OUT,
        operation: "publishCampaignSoldOut",
        summary: "The last coupon is issued, or quantity or budget were lowered to the coupons that are.",
        data: SchemaGenerator::into_root_schema_for::<CampaignSoldOut<'static>>,
        example: || json!({ "campaign_id": CAMPAIGN, "merchant_id": "shop-7", "quantity": 100 }),
    },
    Message {
        kind: CAMPAIGN_CHANGED,
        operation: "publishCampaignChanged",
        summary: "An operator has changed the campaign, which was opened before: it has these fields now.",
        data: SchemaGenerator::into_root_schema_for::<CampaignChanged<'static>>,
        example: || {
            json!({
                "campaign_id": CAMPAIGN, "merchant_id": "shop-7", "name": "Friday", "quantity": 100, "budget": 50_000, "per_user_limit": 1,
                "opens_at": "2026-11-27T18:00:00Z", "closes_at": "2026-11-28T00:00:00Z", "state": "paused", "version": 3,
            })
        },
    },
    Message {
        kind: CAMPAIGN_CLOSED,
        operation: "publishCampaignClosed",
        summary: "No more claims are taken. It comes once, after every issued event of the campaign.",
        data: SchemaGenerator::into_root_schema_for::<CampaignPhase<'static>>,
        example: || phase(4),
    },
];

/// Data of [`CouponChanged`], as an example.
fn change(nth: i32, order: Option<&str>) -> Value {
    let mut data = json!({
        "coupon_id": COUPON, "campaign_id": CAMPAIGN, "user_id": "alice", "nth": nth, "at": "2026-11-29T12:00:00.5Z",
        "merchant_id": "shop-7", "face_value": 500, "currency": "EUR", "settle_on": "redeem",
    });
    if let Some(order) = order {
        data["order_ref"] = order.into();
        data["amount"] = 500.into();
    }
    data
}

/// Data of [`CampaignPhase`], as an example.
fn phase(version: i32) -> Value {
    json!({
        "campaign_id": CAMPAIGN, "merchant_id": "shop-7", "name": "Friday", "quantity": 100, "version": version,
    })
}
