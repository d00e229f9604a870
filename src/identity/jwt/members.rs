//! The members of a JSON object, each at most once, at every depth. `serde_json` keeps the last of two members of one name,
//! while other readers of the same token keep the first.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::refused::Refused;

/// A part of a token, decoded from base64url without padding.
///
/// # Errors
/// [`Refused::Malformed`].
pub(super) fn decoded(part: &str) -> Result<Vec<u8>, Refused> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refused::Malformed)
}

/// Objects and arrays within each other, at most: each is read once more for every one around it, before the signature is
/// verified.
const DEPTH_MAX: usize = 16;

/// The members of a JSON object.
pub(super) struct Members<'a> {
    values: HashMap<String, &'a RawValue>,
    /// A name is there twice, in whatever form it is escaped.
    is_duplicated: bool,
}

impl<'a> Members<'a> {
    /// # Errors
    /// [`Refused::Malformed`] or [`Refused::Duplicated`].
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, Refused> {
        Self::parse_within(json, DEPTH_MAX)
    }

    fn parse_within(json: &'a [u8], depth: usize) -> Result<Self, Refused> {
        let members: Self = serde_json::from_slice(json).map_err(|_| Refused::Malformed)?;
        if members.is_duplicated {
            return Err(Refused::Duplicated);
        }
        members.values.values().try_for_each(|value| check(value, depth))?;
        Ok(members)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// # Errors
    /// [`Refused::WrongType`] if it is there and no `T`.
    pub(super) fn optional<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, Refused> {
        let value = self.values.get(name);
        let parsed = value.map(|raw| serde_json::from_str(raw.get())).transpose();
        parsed.map_err(|_| Refused::WrongType(name))
    }

    /// # Errors
    /// [`Refused::Missing`], or as those of [`Members::optional`].
    pub(super) fn required<T: DeserializeOwned>(&self, name: &'static str) -> Result<T, Refused> {
        self.optional(name)?.ok_or(Refused::Missing(name))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader)
    }
}

/// Checks the members of all objects within a value.
fn check(value: &RawValue, depth: usize) -> Result<(), Refused> {
    let json = value.get();
    let inner = depth.checked_sub(1).ok_or(Refused::Malformed);
    match json.as_bytes().first() {
        Some(b'{') => Members::parse_within(json.as_bytes(), inner?).map(drop),
        Some(b'[') => {
            let values: Vec<&RawValue> = serde_json::from_str(json).map_err(|_| Refused::Malformed)?;
            let inner = inner?;
            values.into_iter().try_for_each(|value| check(value, inner))
        }
        _ => Ok(()),
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Members { values: HashMap::new(), is_duplicated: false };
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            members.is_duplicated |= members.values.insert(name, value).is_some();
        }
        Ok(members)
    }
}
