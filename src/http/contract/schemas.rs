//! The bodies of requests and answers, as the document describes them. Nothing is made of these types: the tests compare
//! the answers of the service with them.

#![expect(dead_code, reason = "only their schemas are used")]

use serde_json::{Map, Value, json, to_value};
use utoipa::{PartialSchema, ToSchema};

/// Every schema, by its name.
pub(super) fn all() -> Map<String, Value> {
    let mut schemas = Map::new();
    add::<NewCampaign>(&mut schemas);
    add::<Claim>(&mut schemas);
    add::<Nothing>(&mut schemas);
    add::<ExternalId>(&mut schemas);
    add::<Campaign>(&mut schemas);
    add::<CampaignState>(&mut schemas);
    add::<SettleOn>(&mut schemas);
    add::<CampaignPage>(&mut schemas);
    add::<Coupon>(&mut schemas);
    add::<CouponState>(&mut schemas);
    add::<WalletCoupon>(&mut schemas);
    add::<WalletPage>(&mut schemas);
    add::<Readiness>(&mut schemas);
    add::<ReadinessStatus>(&mut schemas);
    add::<Link>(&mut schemas);
    add::<FieldProblem>(&mut schemas);
    // What a derive cannot say.
    let mut say = |schema: &str, member: &str, value: Value| {
        if let Some(schema) = schemas.get_mut(schema) {
            schema[member] = value;
        }
    };
    for body in [NewCampaign::name(), Claim::name(), Nothing::name()] {
        say(&body, "additionalProperties", false.into());
    }
    say(&Nothing::name(), "type", json!(["object", "null"]));
    let [given, missing] = [json!({ "type": "string" }), json!({ "type": "null" })];
    let either = [
        json!({ "coupon_expires_at": given, "coupon_valid_for": missing }),
        json!({ "coupon_expires_at": missing, "coupon_valid_for": given }),
    ];
    say(
        &NewCampaign::name(),
        "oneOf",
        json!([
            { "required": ["coupon_expires_at"], "properties": either[0] },
            { "required": ["coupon_valid_for"], "properties": either[1] },
        ]),
    );
    schemas
}

fn add<T: ToSchema + PartialSchema>(schemas: &mut Map<String, Value>) {
    // A schema holds nothing that JSON cannot say.
    schemas.insert(T::name().into_owned(), to_value(T::schema()).unwrap_or_default());
}

/// A campaign to create. Exactly one of `coupon_expires_at` and `coupon_valid_for` is given.
#[derive(ToSchema)]
struct NewCampaign {
    /// 1 to 200 bytes, not all of them white space.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: String,
    merchant_id: ExternalId,
    /// In minor units of the currency. Times `quantity` it is at most 10^18.
    #[schema(minimum = 1, maximum = 1_000_000_000_000_i64)]
    face_value: i64,
    /// A code of ISO 4217.
    #[schema(pattern = "^[A-Z]{3}$")]
    currency: String,
    #[schema(minimum = 1, maximum = 10_000_000)]
    quantity: i64,
    /// Coupons of a user, at most; at most `quantity`; 1 if it is missing.
    #[schema(minimum = 1, maximum = 10, required = false)]
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
    /// An ISO 8601 duration of weeks, days, hours, minutes and seconds, PT1S to P3650D.
    #[schema(pattern = "^P([0-9]+W)?([0-9]+D)?(T([0-9]+H)?([0-9]+M)?([0-9]+S)?)?$")]
    coupon_valid_for: Option<String>,
    /// `redeem` if it is missing.
    #[schema(required = false)]
    settle_on: SettleOn,
    /// Whether a claim without an idempotency key is refused; false if it is missing.
    #[schema(required = false)]
    require_idempotency_key: bool,
}

/// A name that the caller gives: 1 to 64 visible ASCII characters, and neither `.` nor `..`.
#[derive(ToSchema)]
#[schema(pattern = r"^([!-\-/-~][!-~]?|\.[!-\-/-~]|[!-~]{3,64})$")]
struct ExternalId(String);

/// A claim of a coupon for a user.
#[derive(ToSchema)]
struct Claim {
    /// An end user may leave it out, or names themselves. All other callers give it.
    #[schema(required = false)]
    user_id: ExternalId,
}

/// An object without fields. The body may also be missing or `null`.
#[derive(ToSchema)]
struct Nothing {}

/// A campaign with its counts. It has either `coupon_expires_at` or `coupon_valid_for`.
#[derive(ToSchema)]
struct Campaign {
    /// A ULID.
    id: String,
    name: String,
    merchant_id: String,
    /// In minor units of the currency.
    face_value: i64,
    currency: String,
    quantity: i32,
    per_user_limit: i32,
    #[schema(format = DateTime)]
    opens_at: String,
    #[schema(format = DateTime)]
    closes_at: String,
    #[schema(format = DateTime, nullable = false)]
    coupon_expires_at: Option<String>,
    #[schema(nullable = false)]
    coupon_valid_for: Option<String>,
    settle_on: SettleOn,
    require_idempotency_key: bool,
    state: CampaignState,
    /// Grows by one with each change.
    version: i32,
    #[schema(format = DateTime)]
    created_at: String,
    /// Coupons issued.
    issued: i32,
    /// The quantity less the coupons issued.
    left: i32,
}

/// The state of a campaign. `paused` is reserved: no route sets it yet.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum CampaignState {
    Draft,
    Scheduled,
    Open,
    Paused,
    Closed,
}

/// Which event makes a coupon count for the merchant.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum SettleOn {
    Redeem,
    Issue,
}

/// A page of campaigns, the newest first.
#[derive(ToSchema)]
struct CampaignPage {
    campaigns: Vec<Campaign>,
    /// The cursor of the next page; null at the end.
    #[schema(required = true)]
    next: Option<String>,
}

/// A coupon.
#[derive(ToSchema)]
struct Coupon {
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

/// The state of a coupon. `redeemed` and `cancelled` are reserved.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum CouponState {
    Issued,
    Redeemed,
    Cancelled,
    Expired,
}

/// A coupon in a wallet.
#[derive(ToSchema)]
struct WalletCoupon {
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
struct WalletPage {
    coupons: Vec<WalletCoupon>,
    /// The cursor of the next page; null at the end.
    #[schema(required = true)]
    next: Option<String>,
}

/// Whether a process can do its work, and what is missing.
#[derive(ToSchema)]
struct Readiness {
    status: ReadinessStatus,
    postgres: Link,
    redis: Link,
    nats: Link,
    /// Why relays have halted, one sentence each.
    halted: Vec<String>,
    /// What makes no progress, one sentence each.
    #[schema(nullable = false)]
    stalled: Option<Vec<String>>,
}

/// What a process can do.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum ReadinessStatus {
    Ready,
    Degraded,
    Unready,
}

/// The link to a server.
#[derive(ToSchema)]
enum Link {
    #[schema(rename = "up")]
    Up,
    #[schema(rename = "down")]
    Down,
    #[schema(rename = "not needed")]
    NotNeeded,
    #[schema(rename = "unknown")]
    Unknown,
}

/// A field, and what is wrong with it.
#[derive(ToSchema)]
struct FieldProblem {
    field: String,
    reason: String,
}
