//! Identities, each a type of its own: ULIDs that this service gives ([`CampaignId`], [`CouponId`], [`TokenId`]) and
//! names that callers bring along ([`UserId`], [`MerchantId`], [`OrderRef`]); and what is wrong with a field.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use outbox_relay::Shard;
use outbox_relay::strict::id_of;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};
use ulid::Ulid;
use utoipa::ToSchema;
use uuid::Uuid;

/// Characters of the name of a field in a [`FieldProblem`], at most: the caller may have made it up.
const FIELD_CHARACTERS_MAX: usize = 64;
/// Bytes of an [external id](ExternalIdError), at most: it becomes a part of keys in Redis and of rows.
pub const EXTERNAL_ID_BYTES_MAX: usize = 64;
/// A ULID as this service writes it, as a pattern of JSON Schema.
pub const ULID_PATTERN: &str = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$";

/// The text is not a ULID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a ULID")]
pub struct UlidError;

/// The text cannot be the name of a user, a merchant or an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 visible ASCII characters, and neither . nor ..")]
pub struct ExternalIdError;

/// Reads a ULID as this service writes it, in capital or small letters.
///
/// # Errors
/// When the text is anything else.
pub fn ulid(text: &str) -> Result<Ulid, UlidError> {
    id_of(text).ok_or(UlidError)
}

/// An id that this service gives: a ULID, `uuid` in Postgres, 26 characters in JSON.
macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Ulid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = UlidError;

            fn from_str(text: &str) -> Result<Self, UlidError> {
                ulid(text).map(Self)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": ULID_PATTERN })
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id.into())
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                <Uuid as Type<Postgres>>::type_info()
            }
        }

        impl PgHasArrayType for $name {
            fn array_type_info() -> PgTypeInfo {
                <Uuid as PgHasArrayType>::array_type_info()
            }
        }

        impl Encode<'_, Postgres> for $name {
            fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                <Uuid as Encode<Postgres>>::encode(self.0.into(), buffer)
            }
        }

        impl Decode<'_, Postgres> for $name {
            fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
                <Uuid as Decode<Postgres>>::decode(value).map(Self::from)
            }
        }
    };
}

/// A name that a caller brings along: `text` in Postgres, a string in JSON.
macro_rules! external_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            /// See [`ExternalIdError`].
            pub fn parse(text: impl AsRef<str> + Into<Arc<str>>) -> Result<Self, ExternalIdError> {
                if is_external_id(text.as_ref()) { Ok(Self(text.into())) } else { Err(ExternalIdError) }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&$name> for Arc<str> {
            fn from(id: &$name) -> Self {
                id.0.clone()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                <str as Type<Postgres>>::type_info()
            }

            fn compatible(other: &PgTypeInfo) -> bool {
                <str as Type<Postgres>>::compatible(other)
            }
        }

        impl PgHasArrayType for $name {
            fn array_type_info() -> PgTypeInfo {
                <&str as PgHasArrayType>::array_type_info()
            }

            fn array_compatible(other: &PgTypeInfo) -> bool {
                <&str as PgHasArrayType>::array_compatible(other)
            }
        }

        impl Encode<'_, Postgres> for $name {
            fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                <&str as Encode<Postgres>>::encode(&*self.0, buffer)
            }
        }

        impl<'r> Decode<'r, Postgres> for $name {
            fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
                let text = <&'r str as Decode<Postgres>>::decode(value)?;
                // Rows may have ids that earlier versions took, and that a new request may not have.
                if is_visible(text) { Ok(Self(text.into())) } else { Err(ExternalIdError.into()) }
            }
        }
    };
}

ulid_id! {
    /// Identity of a campaign.
    CampaignId
}

ulid_id! {
    /// Identity of a coupon. Ids of one writer rise, so the newest coupon of a list has the highest id.
    CouponId
}

ulid_id! {
    /// Identity of an API token.
    TokenId
}

external_id! {
    /// A user, as the caller names them: 1 to 64 visible ASCII characters, and neither `.` nor `..`. Cheap to clone.
    UserId
}

external_id! {
    /// A merchant, as the caller names it: 1 to 64 visible ASCII characters, and neither `.` nor `..`. Cheap to clone.
    MerchantId
}

external_id! {
    /// An order, as the merchant names it: 1 to 64 visible ASCII characters, and neither `.` nor `..`. Cheap to clone.
    OrderRef
}

impl CampaignId {
    /// The shard of a new campaign among `shards`.
    #[must_use]
    pub fn shard(self, shards: i16) -> Shard {
        // The low bits of a ULID are random.
        let shard = self.0.0 % u128::from(shards.unsigned_abs().max(1));
        Shard(i16::try_from(shard).unwrap_or_default())
    }
}

/// Clients and proxies remove the segments `.` and `..` from a path, also when they are percent-encoded: no URL leads to
/// these two.
fn is_external_id(text: &str) -> bool {
    is_visible(text) && text != "." && text != ".."
}

fn is_visible(text: &str) -> bool {
    (1..=EXTERNAL_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A field of a request, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldProblem {
    pub field: String,
    pub reason: String,
}

impl FieldProblem {
    /// `reason` continues the sentence that starts with the field, such as "must be 1 to 10". Of a name with more than 64
    /// characters the first 64 are kept; an empty one is shown as two quotes.
    #[must_use]
    pub fn new(field: &str, reason: impl Into<String>) -> Self {
        let end = field.char_indices().nth(FIELD_CHARACTERS_MAX).map_or(field.len(), |(at, _)| at);
        let field = if field.is_empty() { "\"\"" } else { &field[..end] };
        Self { field: field.to_owned(), reason: reason.into() }
    }
}
