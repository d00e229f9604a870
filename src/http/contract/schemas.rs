//! The bodies of requests and answers, as the document describes them. Nothing is made of the types in this file: the
//! tests compare the answers of the service with them. The types from elsewhere describe themselves.

#![expect(dead_code, reason = "only their schemas are used")]

use serde_json::{Map, Value, json, to_value};
use utoipa::{PartialSchema, ToSchema};

use crate::campaign::draft::{
    FACE_VALUE_MAX, NAME_LENGTH_MAX, PER_USER_LIMIT_MAX, QUANTITY_MAX, TOTAL_VALUE_MAX,
};
use crate::campaign::duration::DURATION_DAYS_MAX;
use crate::campaign::{SettleOn, State};
use crate::coupon::CouponState;
use crate::health::{Link, Readiness, Status};
use crate::ids::{EXTERNAL_ID_BYTES_MAX, FieldProblem};
use crate::money::CURRENCY_PATTERN;

/// Every schema, by its name.
pub(super) fn all() -> Map<String, Value> {
    let mut schemas = Map::new();
    add::<NewCampaign>(&mut schemas);
    add::<Claim>(&mut schemas);
    add::<Nothing>(&mut schemas);
    add::<ExternalId>(&mut schemas);
    add::<Campaign>(&mut schemas);
    add::<State>(&mut schemas);
    add::<SettleOn>(&mut schemas);
    add::<CampaignPage>(&mut schemas);
    add::<Coupon>(&mut schemas);
    add::<CouponState>(&mut schemas);
    add::<WalletCoupon>(&mut schemas);
    add::<CouponPage>(&mut schemas);
    add::<WalletPage>(&mut schemas);
    add::<Readiness>(&mut schemas);
    add::<Status>(&mut schemas);
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
    let external_id = format!(r"^([!-\-/-~][!-~]?|\.[!-\-/-~]|[!-~]{{3,{EXTERNAL_ID_BYTES_MAX}}})$");
    say(&ExternalId::name(), "pattern", external_id.into());
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
    for (schema, field, limits) in limits() {
        let field = schemas.get_mut(schema).and_then(|schema| schema["properties"].get_mut(field));
        if let (Some(Value::Object(field)), Value::Object(limits)) = (field, limits) {
            field.extend(limits);
        }
    }
    schemas
}

/// What the fields of requests may be. A derive takes literals alone, and these are the limits of the domain.
fn limits() -> [(&'static str, &'static str, Value); 6] {
    let up_to = |max| json!({ "minimum": 1, "maximum": max });
    let mut face_value = up_to(FACE_VALUE_MAX);
    face_value["description"] =
        format!("In minor units of the currency. Times `quantity` it is at most {TOTAL_VALUE_MAX}.").into();
    let duration = format!(
        "An ISO 8601 duration of weeks, days, hours, minutes and seconds, from 1 s to P{DURATION_DAYS_MAX}D."
    );
    [
        ("NewCampaign", "name", json!({ "minLength": 1, "maxLength": NAME_LENGTH_MAX })),
        ("NewCampaign", "face_value", face_value),
        ("NewCampaign", "currency", json!({ "pattern": CURRENCY_PATTERN })),
        ("NewCampaign", "quantity", up_to(QUANTITY_MAX)),
        ("NewCampaign", "per_user_limit", up_to(PER_USER_LIMIT_MAX)),
        ("NewCampaign", "coupon_valid_for", json!({ "description": duration })),
    ]
}

fn add<T: ToSchema + PartialSchema>(schemas: &mut Map<String, Value>) {
    // A schema holds nothing that JSON cannot say.
    schemas.insert(T::name().into_owned(), to_value(T::schema()).unwrap_or_default());
}

/// A campaign to create. Exactly one of `coupon_expires_at` and `coupon_valid_for` is given.
#[derive(ToSchema)]
struct NewCampaign {
    /// In bytes, not all of them white space.
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: String,
    merchant_id: ExternalId,
    face_value: i64,
    /// A code of ISO 4217.
    currency: String,
    quantity: i64,
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
}

/// A name that the caller gives: 1 to 64 visible ASCII characters, and neither `.` nor `..`.
#[derive(ToSchema)]
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
    state: State,
    /// Grows by one with each change.
    version: i32,
    #[schema(format = DateTime)]
    created_at: String,
    /// Coupons issued.
    issued: i32,
    /// The quantity less the coupons issued.
    left: i32,
}

/// A page of campaigns, the newest first.
#[derive(ToSchema)]
struct CampaignPage {
    campaigns: Vec<Campaign>,
    /// The cursor of the next page; null at the end.
    #[schema(required = true)]
    next: Option<String>,
    /// The ids of campaigns that are left out because what is stored of them cannot be read: a fault for the operator of the
    /// service, whose log has the reason. Missing if there are none.
    #[schema(nullable = false)]
    unreadable: Option<Vec<String>>,
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

/// The coupons that were found.
#[derive(ToSchema)]
struct CouponPage {
    coupons: Vec<Coupon>,
    /// The cursor of the next page; null at the end.
    #[schema(required = true)]
    next: Option<String>,
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
