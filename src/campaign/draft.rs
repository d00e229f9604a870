//! What somebody asks for when he creates a campaign: parsed, with all problems at once.

use std::time::Duration;

use serde::Deserialize;
use time::OffsetDateTime;

use super::{Expiry, SettleOn};
use crate::ids::{FieldProblem, MerchantId};
use crate::money::{Currency, CurrencyError, Money};

/// Limits of one campaign. A gate holds its seats in memory.
const QUANTITY_MAX: i64 = 10_000_000;
/// The gate looks at every seat that a user may have.
const PER_USER_LIMIT_MAX: i64 = 10;
/// So that no sum of a campaign overflows.
const FACE_VALUE_MAX: i64 = 1_000_000_000_000;
const NAME_LENGTH_MAX: usize = 200;
/// Seconds since 1970: from then to the year 9000, so that no sum with a time of a campaign overflows.
const TIMES: std::ops::Range<i64> = 0..221_845_392_000;

/// The body of a request to create a campaign.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
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
}

impl DraftBody {
    /// # Errors
    /// Names every field that cannot be.
    pub fn parse(self) -> Result<Draft, Vec<FieldProblem>> {
        // As Postgres keeps them: what is less than a microsecond apart is the same there.
        let [opens_at, closes_at] =
            [self.opens_at, self.closes_at].map(OffsetDateTime::truncate_to_microsecond);
        let coupon_expires_at = self.coupon_expires_at.map(OffsetDateTime::truncate_to_microsecond);
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
        for (field, value, max) in [
            ("face_value", self.face_value, FACE_VALUE_MAX),
            ("quantity", self.quantity, QUANTITY_MAX),
            ("per_user_limit", self.per_user_limit, PER_USER_LIMIT_MAX),
        ] {
            if !(1..=max).contains(&value) {
                refuse(field, format!("must be 1 to {max}"));
            }
        }
        for (field, time) in [
            ("opens_at", Some(opens_at)),
            ("closes_at", Some(closes_at)),
            ("coupon_expires_at", coupon_expires_at),
        ] {
            if time.is_some_and(|time| !TIMES.contains(&time.unix_timestamp())) {
                refuse(field, "must be in the years 1970 to 8999".to_owned());
            }
        }
        if closes_at <= opens_at {
            refuse("closes_at", "must be after opens_at".to_owned());
        }
        let expiry = match (coupon_expires_at, self.coupon_valid_for.as_deref()) {
            (Some(time), None) if time < closes_at => {
                refuse("coupon_expires_at", "must not be before closes_at".to_owned());
                None
            }
            (Some(time), None) => Some(Expiry::At(time)),
            (None, Some(text)) => {
                let duration = parse_duration(text);
                if duration.is_none() {
                    let reason = "must be an ISO 8601 duration such as P30D or PT12H, up to P3650D";
                    refuse("coupon_valid_for", reason.to_owned());
                }
                duration.map(Expiry::After)
            }
            (Some(_), Some(_)) | (None, None) => {
                let reason = "give exactly one of coupon_expires_at and coupon_valid_for";
                refuse("coupon_expires_at", reason.to_owned());
                None
            }
        };
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
                })
            }
            _ => Err(problems),
        }
    }
}

/// Durations of ISO 8601 that are the same length everywhere: weeks, days, hours, minutes and
/// seconds, no years or months; at least a second, at most ten years.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (date, time) = match text.strip_prefix('P')?.split_once('T') {
        Some((_, "")) => return None,
        Some((date, time)) => (date, time),
        None => (text.strip_prefix('P')?, ""),
    };
    let seconds = parse_units(date, &[('W', 604_800), ('D', 86_400)])?
        .checked_add(parse_units(time, &[('H', 3_600), ('M', 60), ('S', 1)])?)?;
    (1..=3_650 * 86_400).contains(&seconds).then_some(Duration::from_secs(seconds))
}

/// `<number><unit>…`, each unit at most once and in the order given.
fn parse_units(mut text: &str, units: &[(char, u64)]) -> Option<u64> {
    let mut seconds = 0_u64;
    for (unit, length) in units {
        if let Some((number, rest)) = text.split_once(*unit) {
            let number: u64 =
                number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())??;
            seconds = seconds.checked_add(number.checked_mul(*length)?)?;
            text = rest;
        }
    }
    text.is_empty().then_some(seconds)
}

/// The shortest way to write it in days, hours, minutes and seconds.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let part = |number: u64, unit: &str| if number > 0 { format!("{number}{unit}") } else { String::new() };
    let time =
        [part(seconds / 3_600 % 24, "H"), part(seconds / 60 % 60, "M"), part(seconds % 60, "S")].concat();
    let date = part(seconds / 86_400, "D");
    if time.is_empty() { format!("P{date}") } else { format!("P{date}T{time}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, seconds, written) in [
            ("P30D", 30 * 86_400, "P30D"),
            ("PT12H", 43_200, "PT12H"),
            ("P1W", 604_800, "P7D"),
            ("P1DT1H1M1S", 90_061, "P1DT1H1M1S"),
            ("PT90M", 5_400, "PT1H30M"),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
            assert_eq!(format_duration(Duration::from_secs(seconds)), written);
        }
        for text in [
            "",
            "P",
            "PT",
            "30D",
            "P1M",
            "P1Y",
            "PT1D",
            "P0D",
            "P1D1W",
            "P-1D",
            "P1.5D",
            "P3651D",
            "P99999999999999999999D",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
