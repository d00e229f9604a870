//! The id of a request, which its caller and the log of the service name it by.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use ulid::{ULID_LEN, Ulid};

use crate::cause::RequestId;

/// The header of requests and of answers.
pub(super) static REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// The id of a request: that in its only header `Request-Id`, if it is one, or else a new ULID, which takes the place of
/// what the caller sent.
pub(super) fn identify(headers: &mut HeaderMap) -> HeaderValue {
    let mut given = headers.get_all(&REQUEST_ID).iter();
    if let (Some(only), None) = (given.next(), given.next())
        && RequestId::is_one(only.as_bytes())
    {
        return only.clone();
    }
    let id = generate();
    headers.insert(REQUEST_ID.clone(), id.clone());
    id
}

/// A new id. Takes 0.1 µs, which every request pays whose caller sends none.
pub(super) fn generate() -> HeaderValue {
    let mut text = [0; ULID_LEN];
    let text = Bytes::copy_from_slice(Ulid::generate().array_to_str(&mut text).as_bytes());
    HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static("-")) // a ULID is a value
}

/// The id of a request that has come through [`identify`].
pub(super) fn of(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(&REQUEST_ID)
}
