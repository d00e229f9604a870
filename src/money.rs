//! Money: an amount in the minor units of its currency.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, FromRow, Postgres, Row as _, Type};

/// A currency of ISO 4217 that is money: no fund, metal or test code. `text` in Postgres.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(iso_currency::Currency);

/// The code of a [`Currency`], as a pattern of JSON Schema.
pub const CURRENCY_PATTERN: &str = "^[A-Z]{3}$";

/// The text is not the code of a currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a code of ISO 4217, such as EUR")]
pub struct CurrencyError;

impl Currency {
    /// The code, three capital letters.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// Decimal places of its minor unit, as ISO 4217 has them: 2 for EUR, 0 for JPY, 3 for KWD.
    #[must_use]
    pub fn exponent(self) -> u16 {
        self.0.exponent().unwrap_or_default()
    }
}

impl FromStr for Currency {
    type Err = CurrencyError;

    fn from_str(code: &str) -> Result<Self, CurrencyError> {
        iso_currency::Currency::from_code(code)
            .filter(|known| !known.is_fund() && !known.is_special() && known.exponent().is_some())
            .map(Self)
            .ok_or(CurrencyError)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl JsonSchema for Currency {
    fn schema_name() -> Cow<'static, str> {
        "Currency".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": CURRENCY_PATTERN })
    }
}

impl Type<Postgres> for Currency {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }

    fn compatible(other: &PgTypeInfo) -> bool {
        <str as Type<Postgres>>::compatible(other)
    }
}

impl PgHasArrayType for Currency {
    fn array_type_info() -> PgTypeInfo {
        <&str as PgHasArrayType>::array_type_info()
    }
}

impl Encode<'_, Postgres> for Currency {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <&str as Encode<Postgres>>::encode(self.code(), buffer)
    }
}

impl Decode<'_, Postgres> for Currency {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(<&str as Decode<Postgres>>::decode(value)?.parse()?)
    }
}

/// The value of a coupon. In JSON and in rows it is two fields, `face_value` and `currency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Money {
    /// In minor units of the currency: cents for EUR, yen for JPY.
    #[serde(rename = "face_value")]
    pub minor: i64,
    pub currency: Currency,
}

/// In the currency's major unit, such as `50.00 EUR`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (places, unit) = (self.currency.exponent(), 10_u64.pow(self.currency.exponent().into()));
        let (sign, minor) = (if self.minor < 0 { "-" } else { "" }, self.minor.unsigned_abs());
        write!(f, "{sign}{}", minor / unit)?;
        if places > 0 {
            write!(f, ".{:0width$}", minor % unit, width = usize::from(places))?;
        }
        write!(f, " {}", self.currency)
    }
}

impl FromRow<'_, PgRow> for Money {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { minor: row.try_get("face_value")?, currency: row.try_get("currency")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_has_the_decimal_places_of_its_currency() {
        for (minor, code, text) in [
            (5_000, "EUR", "50.00 EUR"),
            (5, "EUR", "0.05 EUR"),
            (-5, "EUR", "-0.05 EUR"),
            (500, "JPY", "500 JPY"),
            (1_234, "KWD", "1.234 KWD"),
        ] {
            let currency = code.parse().unwrap_or_else(|error| panic!("{code}: {error}"));
            assert_eq!(Money { minor, currency }.to_string(), text);
        }
    }

    #[test]
    fn what_is_not_money_is_not_a_currency() {
        for code in ["", "eur", "EURO", "XAU", "XTS", "XXX", "USN", "CHE", "BOV", "CLF"] {
            assert_eq!(code.parse::<Currency>(), Err(CurrencyError), "{code}");
        }
    }
}
