//! Strict parsers of outside text: they accept only what this crate would write itself.

use std::str::FromStr;

use async_nats::HeaderMap;
use serde::Deserialize;
use serde::de::Error as _;
use ulid::Ulid;

/// Whether a JSON text is an array. serde's derived `Deserialize` accepts an array as a struct, field by field;
/// [`from_object`] refuses that.
#[must_use]
pub fn is_array(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"[")
}

/// Reads a JSON object.
///
/// # Errors
/// When the text is not a JSON object of this shape.
pub fn from_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, serde_json::Error> {
    if is_array(text) {
        return Err(serde_json::Error::custom("it is an array, and no object"));
    }
    serde_json::from_slice(text)
}

/// The number in a header, if it is written as this crate writes it: without a plus or leading zeros.
#[must_use]
pub fn number<T: FromStr + ToString>(headers: &HeaderMap, header: &str) -> Option<T> {
    let text = headers.get(header)?.as_str();
    text.parse().ok().filter(|number: &T| number.to_string() == text)
}

/// A ULID from its 26 characters. They carry 130 bits, and `Ulid::from_string` silently drops the top two, so that
/// several texts would be one id: a first character above 7 is refused.
#[must_use]
pub fn id_of(text: &str) -> Option<Ulid> {
    text.bytes().next().filter(|first| *first <= b'7').and_then(|_| Ulid::from_string(text).ok())
}
