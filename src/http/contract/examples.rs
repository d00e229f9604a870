//! Examples of bodies, which the tests compare with those of the running service.

use serde_json::{Value, json};

/// The id of a request in the examples of problems.
pub(super) const REQUEST_ID: &str = "01M7WFKGE14NWN561KVXBYTJTZ";

/// The example of a schema; null if it has none.
pub(super) fn of(schema: &str) -> Value {
    match schema {
        "NewCampaign" => json!({
            "name": "Friday", "merchant_id": "shop-7", "face_value": 500, "currency": "EUR", "quantity": 100,
            "opens_at": "2026-11-27T18:00:00Z", "closes_at": "2099-11-28T00:00:00Z", "coupon_valid_for": "P30D",
        }),
        "CampaignEdit" => json!({ "quantity": 200, "closes_at": "2099-11-29T00:00:00Z" }),
        "Claim" => json!({ "user_id": "alice" }),
        "Nothing" => json!({}),
        "Campaign" => json!({
            "id": "01M7WFKGE14NWN561KVXBYTJTX", "name": "Friday", "merchant_id": "shop-7", "face_value": 500,
            "currency": "EUR", "quantity": 100, "per_user_limit": 1, "opens_at": "2026-11-27T18:00:00Z",
            "closes_at": "2099-11-28T00:00:00Z", "coupon_valid_for": "P30D", "settle_on": "redeem",
            "require_idempotency_key": false, "restock_on_cancel": false, "state": "open", "version": 2,
            "created_at": "2026-11-27T12:00:00.5Z", "issued": 1, "left": 99, "returned": 0, "issued_value": 500,
        }),
        "CampaignPage" => json!({ "campaigns": [of("Campaign")], "next": null }),
        "ChangePage" => json!({
            "changes": [{
                "version": 3, "at": "2026-11-27T18:30:00.5Z", "actor": "token:01M7WFKGE14NWN561KVXBYTJTW",
                "request_id": REQUEST_ID, "before": { "quantity": 100 }, "after": { "quantity": 200 },
            }],
            "next": null,
        }),
        "Sync" => json!({
            "fields": [{ "field": "quantity", "found": "90", "expected": "100" }], "issued": 12,
            "before": { "taken": 11, "pending": 0 }, "after": { "taken": 13, "pending": 1 },
        }),
        "Coupon" => json!({
            "id": "01M7WFKGE14NWN561KVXBYTJTY", "campaign_id": "01M7WFKGE14NWN561KVXBYTJTX",
            "user_id": "alice", "number": 1, "code": "CBDQ-JJS3-YXM5-5SWY-9BD6", "state": "issued",
            "issued_at": "2026-11-27T18:00:01.25Z", "expires_at": "2026-12-27T18:00:01.25Z",
        }),
        "CouponPage" => json!({ "coupons": [of("Coupon")], "next": null }),
        "WalletCoupon" => json!({
            "id": "01M7WFKGE14NWN561KVXBYTJTY", "campaign_id": "01M7WFKGE14NWN561KVXBYTJTX", "number": 1,
            "face_value": 500, "currency": "EUR", "state": "issued", "issued_at": "2026-11-27T18:00:01.25Z",
            "expires_at": "2026-12-27T18:00:01.25Z", "usable": true,
        }),
        "WalletPage" => json!({ "coupons": [of("WalletCoupon")], "next": null }),
        "Redemption" => json!({ "order_ref": "order-7", "amount": 500, "currency": "EUR" }),
        "RedemptionByCode" => {
            json!({ "code": "CBDQ-JJS3-YXM5-5SWY-9BD6", "order_ref": "order-7", "merchant_id": "shop-7" })
        }
        "Restoration" => json!({ "order_ref": "order-7" }),
        "CouponChange" | "RedemptionAnswer" => json!({
            "coupon_id": "01M7WFKGE14NWN561KVXBYTJTY", "campaign_id": "01M7WFKGE14NWN561KVXBYTJTX",
            "user_id": "alice", "nth": 1, "kind": "redeemed", "at": "2026-11-29T12:00:00.5Z",
            "actor": "token:01M7WFKGE14NWN561KVXBYTJTW", "request_id": REQUEST_ID, "order_ref": "order-7",
            "amount": 500, "currency": "EUR",
        }),
        "CouponChangePage" => json!({ "changes": [of("CouponChange")], "next": null }),
        "Readiness" => json!({
            "halted": [], "nats": "up", "postgres": "up", "redis": "up", "status": "ready",
        }),
        "FieldProblem" => json!({ "field": "quantity", "reason": "must be 1 to 10000000" }),
        _ => Value::Null,
    }
}
