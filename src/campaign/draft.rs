//! A request to create a campaign: parsed, with all its problems at once.

use serde::Deserialize;
use time::OffsetDateTime;

use super::duration::parse_duration;
use super::{Expiry, SettleOn};
use crate::ids::{FieldProblem, MerchantId};
use crate::money::{Currency, CurrencyError, Money};

/// Coupons of one campaign, at most: a gate holds its seats in the memory of Redis.
const QUANTITY_MAX: i64 = 10_000_000;
/// Coupons of one user in one campaign, at most: the gate looks at every seat that a user may have.
const PER_USER_LIMIT_MAX: i64 = 10;
/// Minor units of the currency, at most.
const FACE_VALUE_MAX: i64 = 1_000_000_000_000;
/// Minor units that all coupons of a campaign are worth together, at most: a tenth of what fits into 64 bits.
const TOTAL_VALUE_MAX: i64 = 1_000_000_000_000_000_000;
/// Bytes of a name, at most.
const NAME_LENGTH_MAX: usize = 200;
/// Seconds since 1970, up to the year 9000: no sum with a time of a campaign overflows.
const TIMES: std::ops::Range<i64> = 0..221_845_392_000;

/// The body of a request to create a campaign.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct DraftBody {
    pub name: String,
    pub merchant_id: String,
    pub face_value: i64,
    pub currency: String,
    pub quantity: i64,
    #[serde(default = "one")]
    pub per_user_limit: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub opens_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub closes_at: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub coupon_expires_at: Option<OffsetDateTime>,
    pub coupon_valid_for: Option<String>,
    #[serde(default = "on_redeem")]
    pub settle_on: SettleOn,
    #[serde(default)]
    pub require_idempotency_key: bool,
}

fn one() -> i64 {
    1
}

fn on_redeem() -> SettleOn {
    SettleOn::Redeem
}

/// A campaign that can be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub name: String,
    pub merchant_id: MerchantId,
    pub face_value: Money,
    pub quantity: i32,
    pub per_user_limit: i32,
    pub opens_at: OffsetDateTime,
    pub closes_at: OffsetDateTime,
    pub expiry: Expiry,
    pub settle_on: SettleOn,
    pub require_idempotency_key: bool,
}

impl DraftBody {
    /// The campaign, if it can be created at the time `now`.
    ///
    /// # Errors
    /// Names every field that is invalid.
    pub fn parse(self, now: OffsetDateTime) -> Result<Draft, Vec<FieldProblem>> {
        // Postgres keeps microseconds: two times that differ by less are the same there.
        let [opens_at, closes_at] =
            [self.opens_at, self.closes_at].map(OffsetDateTime::truncate_to_microsecond);
        let expires_at = self.coupon_expires_at.map(OffsetDateTime::truncate_to_microsecond);
        let mut problems = Vec::new();
        let mut refuse = |field: &str, reason: String| problems.push(FieldProblem::new(field, reason));

        if self.name.trim().is_empty() || self.name.len() > NAME_LENGTH_MAX {
            refuse("name", format!("must be 1 to {NAME_LENGTH_MAX} bytes"));
        } else if self.name.contains(char::is_control) {
            refuse("name", "must have no control characters".to_owned());
        }
        let merchant_id = MerchantId::parse(self.merchant_id)
            .inspect_err(|error| refuse("merchant_id", error.to_string()))
            .ok();
        let currency: Option<Currency> = self
            .currency
            .parse()
            .inspect_err(|error: &CurrencyError| refuse("currency", error.to_string()))
            .ok();
        let face_value_max = FACE_VALUE_MAX.min(TOTAL_VALUE_MAX / self.quantity.clamp(1, QUANTITY_MAX));
        for (field, value, max) in [
            ("face_value", self.face_value, face_value_max),
            ("quantity", self.quantity, QUANTITY_MAX),
            ("per_user_limit", self.per_user_limit, PER_USER_LIMIT_MAX),
        ] {
            if !(1..=max).contains(&value) {
                refuse(field, format!("must be 1 to {max}"));
            }
        }
        if (1..self.per_user_limit).contains(&self.quantity) && self.per_user_limit <= PER_USER_LIMIT_MAX {
            refuse("per_user_limit", format!("must be at most the quantity, {}", self.quantity));
        }
        let times =
            [("opens_at", Some(opens_at)), ("closes_at", Some(closes_at)), ("coupon_expires_at", expires_at)];
        for (field, time) in times {
            if time.is_some_and(|time| !TIMES.contains(&time.unix_timestamp())) {
                refuse(field, "must be in the years 1970 to 8999".to_owned());
            }
        }
        if closes_at <= opens_at {
            refuse("closes_at", "must be after opens_at".to_owned());
        } else if closes_at <= now {
            refuse("closes_at", "must be in the future".to_owned());
        }
        let expiry = expiry(closes_at, expires_at, self.coupon_valid_for.as_deref())
            .map_err(|problem| problems.push(problem))
            .ok();
        let counts = (i32::try_from(self.quantity), i32::try_from(self.per_user_limit));
        match (merchant_id, currency, expiry, counts) {
            (Some(merchant_id), Some(currency), Some(expiry), (Ok(quantity), Ok(per_user_limit)))
                if problems.is_empty() =>
            {
                Ok(Draft {
                    name: self.name,
                    merchant_id,
                    face_value: Money { minor: self.face_value, currency },
                    quantity,
                    per_user_limit,
                    opens_at,
                    closes_at,
                    expiry,
                    settle_on: self.settle_on,
                    require_idempotency_key: self.require_idempotency_key,
                })
            }
            _ => Err(problems),
        }
    }
}

/// When coupons expire, from the two fields of which one is given.
fn expiry(
    closes_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
    valid_for: Option<&str>,
) -> Result<Expiry, FieldProblem> {
    match (expires_at, valid_for) {
        (Some(time), None) if time < closes_at => {
            Err(FieldProblem::new("coupon_expires_at", "must not be before closes_at"))
        }
        (Some(time), None) => Ok(Expiry::At(time)),
        (None, Some(text)) => {
            let reason = "must be an ISO 8601 duration such as P30D or PT12H, up to P3650D";
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
