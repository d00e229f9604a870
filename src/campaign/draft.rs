//! A request to create a campaign: parsed, with all its problems at once.

use std::fmt;

use time::OffsetDateTime;

use super::duration::{DURATION_DAYS_MAX, parse_duration};
use super::{Campaign, Expiry, SettleOn};
use crate::ids::{FieldProblem, MerchantId};
use crate::json::{Object, Rejected, Value};
use crate::money::{Currency, Money};

/// The fields of the body, in the order in which messages name them.
pub(super) const FIELDS: [&str; 14] = [
    "name",
    "merchant_id",
    "face_value",
    "currency",
    "quantity",
    "budget",
    "per_user_limit",
    "opens_at",
    "closes_at",
    "coupon_expires_at",
    "coupon_valid_for",
    "settle_on",
    "require_idempotency_key",
    "restock_on_cancel",
];
/// Coupons of one campaign, at most: a gate holds its seats in the memory of Redis.
pub const QUANTITY_MAX: i64 = 10_000_000;
/// Coupons of one user in one campaign, at most: the gate looks at every seat that a user may have.
pub const PER_USER_LIMIT_MAX: i64 = 10;
/// Minor units of the currency, at most.
pub const FACE_VALUE_MAX: i64 = 1_000_000_000_000;
/// Minor units that all coupons of a campaign are worth together, at most: a tenth of what fits into 64 bits.
pub const TOTAL_VALUE_MAX: i64 = 1_000_000_000_000_000_000;
/// Bytes of a name, at most.
pub const NAME_LENGTH_MAX: usize = 200;
/// Seconds since 1970, up to the year 9000: no sum with a time of a campaign overflows.
const TIMES: std::ops::Range<i64> = 0..221_845_392_000;

/// The body of a request to create a campaign. A field that is missing or of another type is nothing here, and is among
/// the problems.
#[derive(Debug)]
pub struct DraftBody {
    pub(super) problems: Vec<FieldProblem>,
    pub(super) name: Option<String>,
    pub(super) merchant_id: Option<String>,
    pub(super) face_value: Option<i64>,
    pub(super) currency: Option<String>,
    pub(super) quantity: Option<i64>,
    pub(super) budget: Option<i64>,
    pub(super) per_user_limit: Option<i64>,
    pub(super) opens_at: Option<OffsetDateTime>,
    pub(super) closes_at: Option<OffsetDateTime>,
    /// `coupon_expires_at` and `coupon_valid_for`, if neither is of another type.
    pub(super) expiry: Option<(Option<OffsetDateTime>, Option<String>)>,
    pub(super) settle_on: Option<SettleOn>,
    pub(super) require_idempotency_key: Option<bool>,
    pub(super) restock_on_cancel: Option<bool>,
}

/// A campaign that can be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub name: String,
    pub merchant_id: MerchantId,
    pub face_value: Money,
    pub quantity: i32,
    pub budget: Option<i64>,
    pub per_user_limit: i32,
    pub opens_at: OffsetDateTime,
    pub closes_at: OffsetDateTime,
    pub expiry: Expiry,
    pub settle_on: SettleOn,
    pub require_idempotency_key: bool,
    pub restock_on_cancel: bool,
}

impl Draft {
    /// A campaign as it would be created now.
    #[must_use]
    pub fn of(campaign: &Campaign) -> Self {
        let Campaign { name, merchant_id, face_value, quantity, per_user_limit, opens_at, closes_at, .. } =
            campaign;
        Self {
            name: name.clone(),
            merchant_id: merchant_id.clone(),
            face_value: *face_value,
            quantity: *quantity,
            budget: campaign.budget,
            per_user_limit: *per_user_limit,
            opens_at: *opens_at,
            closes_at: *closes_at,
            expiry: campaign.expiry,
            settle_on: campaign.settle_on,
            require_idempotency_key: campaign.require_idempotency_key,
            restock_on_cancel: campaign.restock_on_cancel,
        }
    }
}

impl DraftBody {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// When the bytes are not an object of JSON.
    pub fn read(bytes: &[u8]) -> Result<Self, Rejected> {
        let mut object = Object::read(bytes, FIELDS)?;
        let expires_at = object.optional("coupon_expires_at", None);
        let valid_for = object.optional("coupon_valid_for", None);
        let body = Self {
            problems: Vec::new(),
            name: object.required("name"),
            merchant_id: object.required("merchant_id"),
            face_value: object.required("face_value"),
            currency: object.required("currency"),
            quantity: object.required("quantity"),
            budget: object.optional("budget", None).flatten(),
            per_user_limit: object.optional("per_user_limit", 1),
            opens_at: object.required("opens_at"),
            closes_at: object.required("closes_at"),
            expiry: expires_at.zip(valid_for),
            settle_on: object.optional("settle_on", SettleOn::Redeem),
            require_idempotency_key: object.optional("require_idempotency_key", false),
            restock_on_cancel: object.optional("restock_on_cancel", false),
        };
        Ok(Self { problems: object.into_problems(), ..body })
    }

    /// The campaign, if it can be created at the time `now`.
    ///
    /// # Errors
    /// Names every field that is wrong.
    pub fn parse(self, now: OffsetDateTime) -> Result<Draft, Rejected> {
        let malformed = !self.problems.is_empty();
        let mut checks = Checks(self.problems);
        let name = checks.keep(self.name, named);
        let merchant_id =
            checks.keep(self.merchant_id, |id| MerchantId::parse(id).map_err(in_field("merchant_id")));
        let currency =
            checks.keep(self.currency, |code| code.parse::<Currency>().map_err(in_field("currency")));
        let amounts = checks.amounts(self.face_value, self.quantity, self.per_user_limit);
        let budget = checks.keep(self.budget, |budget| budgeted(budget, self.face_value));
        let (expires_at, valid_for) = self.expiry.clone().unwrap_or_default();
        // Postgres keeps microseconds: two times that differ by less are the same there.
        let [opens_at, closes_at, expires_at] = [self.opens_at, self.closes_at, expires_at]
            .map(|time| time.map(OffsetDateTime::truncate_to_microsecond));
        checks.times([("opens_at", opens_at), ("closes_at", closes_at), ("coupon_expires_at", expires_at)]);
        checks.window(opens_at, closes_at, now);
        let expiry = checks.keep(self.expiry, |_| expiry_of(closes_at, expires_at, valid_for.as_deref()));
        let draft = || {
            let (minor, quantity, per_user_limit) = amounts?;
            Some(Draft {
                name: name?,
                merchant_id: merchant_id?,
                face_value: Money { minor, currency: currency? },
                quantity,
                budget,
                per_user_limit,
                opens_at: opens_at?,
                closes_at: closes_at?,
                expiry: expiry?,
                settle_on: self.settle_on?,
                require_idempotency_key: self.require_idempotency_key?,
                restock_on_cancel: self.restock_on_cancel?,
            })
        };
        let draft = draft().filter(|_| checks.0.is_empty());
        draft.ok_or(Rejected { malformed, problems: checks.0 })
    }
}

/// The problems found so far.
struct Checks(Vec<FieldProblem>);

impl Checks {
    /// What becomes of a value that is there, unless it is wrong.
    fn keep<T, U>(
        &mut self,
        value: Option<T>,
        check: impl FnOnce(T) -> Result<U, FieldProblem>,
    ) -> Option<U> {
        check(value?).map_err(|problem| self.0.push(problem)).ok()
    }

    fn refuse(&mut self, field: &str, reason: impl Into<String>) {
        self.0.push(FieldProblem::new(field, reason));
    }

    /// Face value in minor units, quantity, and coupons per user.
    fn amounts(
        &mut self,
        face_value: Option<i64>,
        quantity: Option<i64>,
        per_user_limit: Option<i64>,
    ) -> Option<(i64, i32, i32)> {
        let coupons = quantity.unwrap_or(1).clamp(1, QUANTITY_MAX);
        let face_value_max = FACE_VALUE_MAX.min(TOTAL_VALUE_MAX / coupons);
        for (field, value, max) in [
            ("face_value", face_value, face_value_max),
            ("quantity", quantity, QUANTITY_MAX),
            ("per_user_limit", per_user_limit, PER_USER_LIMIT_MAX),
        ] {
            if value.is_some_and(|value| !(1..=max).contains(&value)) {
                self.refuse(field, format!("must be 1 to {max}"));
            }
        }
        let (face_value, quantity, per_user_limit) = (face_value?, quantity?, per_user_limit?);
        if (1..per_user_limit).contains(&quantity) && per_user_limit <= PER_USER_LIMIT_MAX {
            self.refuse("per_user_limit", format!("must be at most the quantity, {quantity}"));
        }
        Some((face_value, i32::try_from(quantity).ok()?, i32::try_from(per_user_limit).ok()?))
    }

    fn times(&mut self, times: [(&str, Option<OffsetDateTime>); 3]) {
        for (field, time) in times {
            if time.is_some_and(|time| !TIMES.contains(&time.unix_timestamp())) {
                self.refuse(field, "must be in the years 1970 to 8999");
            }
        }
    }

    fn window(
        &mut self,
        opens_at: Option<OffsetDateTime>,
        closes_at: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) {
        let Some(closes_at) = closes_at else { return };
        if opens_at.is_some_and(|opens_at| closes_at <= opens_at) {
            self.refuse("closes_at", "must be after opens_at");
        } else if closes_at <= now {
            self.refuse("closes_at", "must be in the future");
        }
    }
}

/// A name of a campaign.
fn named(name: String) -> Result<String, FieldProblem> {
    if name.trim().is_empty() || name.len() > NAME_LENGTH_MAX {
        Err(FieldProblem::new("name", format!("must be 1 to {NAME_LENGTH_MAX} bytes")))
    } else if name.contains(char::is_control) {
        Err(FieldProblem::new("name", "must have no control characters"))
    } else {
        Ok(name)
    }
}

/// A budget that pays for a coupon at least.
fn budgeted(budget: i64, face_value: Option<i64>) -> Result<i64, FieldProblem> {
    let least = face_value.filter(|value| (1..=FACE_VALUE_MAX).contains(value)).unwrap_or(1);
    let problem = || FieldProblem::new("budget", format!("must be {least} to {TOTAL_VALUE_MAX}"));
    (least..=TOTAL_VALUE_MAX).contains(&budget).then_some(budget).ok_or_else(problem)
}

fn in_field<E: fmt::Display>(field: &str) -> impl FnOnce(E) -> FieldProblem {
    move |error| FieldProblem::new(field, error.to_string())
}

/// When coupons expire, from the two fields of which one is given.
fn expiry_of(
    closes_at: Option<OffsetDateTime>,
    expires_at: Option<OffsetDateTime>,
    valid_for: Option<&str>,
) -> Result<Expiry, FieldProblem> {
    match (expires_at, valid_for) {
        (Some(time), None) if closes_at.is_some_and(|closes_at| time < closes_at) => {
            Err(FieldProblem::new("coupon_expires_at", "must not be before closes_at"))
        }
        (Some(time), None) => Ok(Expiry::At(time)),
        (None, Some(text)) => {
            let reason =
                format!("must be an ISO 8601 duration such as P30D or PT12H, up to P{DURATION_DAYS_MAX}D");
            parse_duration(text)
                .map(Expiry::After)
                .ok_or_else(|| FieldProblem::new("coupon_valid_for", reason))
        }
        (Some(_), Some(_)) | (None, None) => {
            let reason = "give exactly one of coupon_expires_at and coupon_valid_for";
            Err(FieldProblem::new("coupon_expires_at", reason))
        }
    }
}

impl Value for SettleOn {
    const KIND: &'static str = "a string";
    const TYPE: &'static str = "must be redeem or issue";

    fn read(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }
}
