//! The bodies of requests and answers, as the document describes them. Nothing is made of the types in this file: the
//! tests compare the answers of the service with them. The types from elsewhere describe themselves.

#![expect(dead_code, reason = "only their schemas are used")]

use serde_json::{Map, Value, json, to_value};
use utoipa::{PartialSchema, ToSchema};

use super::bodies::{
    CampaignEdit, Claim, ExternalId, NewCampaign, Nothing, Redemption, RedemptionByCode, Restoration,
};
use super::coupons::{Coupon, CouponChange, CouponChangePage, CouponPage, Trial, WalletCoupon, WalletPage};
use super::reference;
use crate::campaign::draft::{
    FACE_VALUE_MAX, NAME_LENGTH_MAX, PER_USER_LIMIT_MAX, QUANTITY_MAX, TOTAL_VALUE_MAX,
};
use crate::campaign::duration::DURATION_DAYS_MAX;
use crate::campaign::{SettleOn, State};
use crate::coupon::CouponState;
use crate::coupon::code::CODE_LENGTH;
use crate::health::{Link, Readiness, Status};
use crate::ids::{EXTERNAL_ID_BYTES_MAX, FieldProblem};
use crate::lifecycle::{ChangeKind, Reason};
use crate::money::CURRENCY_PATTERN;

/// Every schema, by its name.
pub(super) fn all() -> Map<String, Value> {
    let mut schemas = Map::new();
    macro_rules! add {
        ($($schema:ident)*) => { $(add::<$schema>(&mut schemas);)* };
    }
    add! {
        NewCampaign CampaignEdit Claim Redemption RedemptionByCode Restoration
        Nothing ExternalId Campaign State SettleOn CampaignPage
        Sync SyncedField GateSeats Change ChangePage Coupon
        CouponState ChangeKind Reason CouponChange CouponChangePage Trial
        WalletCoupon CouponPage WalletPage Readiness Status Link
        FieldProblem
    }
    // What a derive cannot say.
    let mut say = |schema: &str, member: &str, value: Value| {
        if let Some(schema) = schemas.get_mut(schema) {
            schema[member] = value;
        }
    };
    for body in [
        NewCampaign::name(),
        CampaignEdit::name(),
        Claim::name(),
        Redemption::name(),
        RedemptionByCode::name(),
        Restoration::name(),
        Nothing::name(),
    ] {
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
    let answers = ["CouponChange", "Trial"].map(|name| reference("schemas", name));
    schemas.insert("RedemptionAnswer".to_owned(), json!({ "oneOf": answers }));
    for (schema, field, limits) in limits() {
        let field = schemas.get_mut(schema).and_then(|schema| schema["properties"].get_mut(field));
        if let (Some(Value::Object(field)), Value::Object(limits)) = (field, limits) {
            field.extend(limits);
        }
    }
    schemas
}

/// What the fields of requests may be. A derive takes literals alone, and these are the limits of the domain.
fn limits() -> Vec<(&'static str, &'static str, Value)> {
    let up_to = |max| json!({ "minimum": 1, "maximum": max });
    let mut face_value = up_to(FACE_VALUE_MAX);
    face_value["description"] =
        format!("In minor units of the currency. Times `quantity` it is at most {TOTAL_VALUE_MAX}.").into();
    let duration = format!(
        "An ISO 8601 duration of weeks, days, hours, minutes and seconds, from 1 s to P{DURATION_DAYS_MAX}D."
    );
    let limits = [
        ("name", json!({ "minLength": 1, "maxLength": NAME_LENGTH_MAX })),
        ("face_value", face_value),
        ("currency", json!({ "pattern": CURRENCY_PATTERN })),
        ("quantity", up_to(QUANTITY_MAX)),
        ("budget", up_to(TOTAL_VALUE_MAX)),
        ("per_user_limit", up_to(PER_USER_LIMIT_MAX)),
        ("coupon_valid_for", json!({ "description": duration })),
    ];
    let of = |schema| limits.iter().map(move |(field, limits)| (schema, *field, limits.clone()));
    let amount = ["Redemption", "RedemptionByCode"].map(|schema| (schema, "amount", up_to(FACE_VALUE_MAX)));
    let currency = ["Redemption", "RedemptionByCode"]
        .map(|schema| (schema, "currency", json!({ "pattern": CURRENCY_PATTERN })));
    let code = ("RedemptionByCode", "code", json!({ "minLength": CODE_LENGTH }));
    of("NewCampaign").chain(of("CampaignEdit")).chain(amount).chain(currency).chain([code]).collect()
}

fn add<T: ToSchema + PartialSchema>(schemas: &mut Map<String, Value>) {
    // A schema holds nothing that JSON cannot say.
    schemas.insert(T::name().into_owned(), to_value(T::schema()).unwrap_or_default());
}

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
    /// What all coupons may be worth together, in minor units; missing if `quantity` alone is the limit.
    #[schema(nullable = false)]
    budget: Option<i64>,
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
    restock_on_cancel: bool,
    state: State,
    /// Grows by one with each change.
    version: i32,
    #[schema(format = DateTime)]
    created_at: String,
    /// Coupons issued.
    issued: i32,
    /// The quantity, or the coupons that the budget pays for if they are fewer, less the coupons issued that are not returned.
    left: i32,
    /// Coupons that were cancelled and whose seats are back on sale.
    returned: i32,
    /// What the other coupons issued are worth together, in minor units.
    issued_value: i64,
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

/// What Redis had wrong of a campaign, before it was loaded again.
#[derive(ToSchema)]
struct Sync {
    /// Fields that differed.
    fields: Vec<SyncedField>,
    /// Coupons that are issued.
    issued: i32,
    /// The seats before; null if Redis did not have the campaign.
    #[schema(required = true)]
    before: Option<GateSeats>,
    /// The seats since; null if the campaign has been over for more than a day.
    #[schema(required = true)]
    after: Option<GateSeats>,
}

/// A field that differed.
#[derive(ToSchema)]
struct SyncedField {
    field: String,
    /// Null if Redis had no such field.
    #[schema(required = true)]
    found: Option<String>,
    expected: String,
}

/// Seats in Redis.
#[derive(ToSchema)]
struct GateSeats {
    /// Those that are pending included.
    taken: i64,
    /// Whose coupons are not confirmed yet.
    pending: i64,
}

/// A change of a campaign.
#[derive(ToSchema)]
struct Change {
    /// The version of the campaign after the change.
    version: i32,
    #[schema(format = DateTime)]
    at: String,
    /// The caller: `administrator`, or `token:` and the id of an API token; `clock` if the time had come.
    actor: String,
    /// The request; null if there was none.
    #[schema(required = true)]
    request_id: Option<String>,
    /// The fields of the campaign that have changed, as they were; null if it was created.
    #[schema(required = true, value_type = Option<Object>)]
    before: Option<Value>,
    /// The same fields, as they are since.
    #[schema(value_type = Object)]
    after: Value,
}

/// A page of changes, the newest first.
#[derive(ToSchema)]
struct ChangePage {
    changes: Vec<Change>,
    /// The cursor of the next page; null at the end.
    #[schema(required = true)]
    next: Option<String>,
}
