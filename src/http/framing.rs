//! Headers that two servers may read differently, so that whatever stands between client and service sees another request:
//! the service reads neither way and refuses them with 400.
//!
//! Headers that have one value, given twice: RFC 9110, section 5.3, lets nobody send them, and RFC 6750, section 3.1,
//! forbids a repeated token. No `Host` in HTTP/1.1, a second, one that is no host, or not that of the target: RFC 9112,
//! section 3.2. A `Transfer-Encoding` of several codings, of which the HTTP library would look at the last alone: section 6.1.
//!
//! `Content-Length` is not among them. The HTTP library refuses two that differ, and makes one of two that are the same, as
//! RFC 9110, section 8.6, has it; beside `Transfer-Encoding` it drops it, and closes the connection after the answer, as RFC
//! 9112, section 6.1, has it. Of `Request-Id` and `traceparent`, which change no answer, two count as none.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header};

use super::extract::BODY_BYTES_MAX;
use super::problem::Problem;
use crate::ids::FieldProblem;

/// The header of the key of a request.
pub(super) static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Refuses a request that another server may read differently, and one whose body is longer than any that a handler reads.
pub(super) fn refuse<B>(request: &Request<B>) -> Result<(), Problem> {
    let headers = request.headers();
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        return Err(Problem::too_large(BODY_BYTES_MAX));
    }
    let mut problems = repeated(headers);
    match headers.get(header::HOST).map(HeaderValue::as_bytes) {
        None if request.version() == Version::HTTP_11 => {
            problems.push(FieldProblem::new("Host", "is missing"));
        }
        Some(host) if !is_host(host) => {
            problems.push(FieldProblem::new("Host", "must be a name or an address, and a port if need be"));
        }
        // A target such as `http://host/path`, which proxies send to each other.
        Some(host) if request.uri().authority().is_some_and(|named| named.as_str().as_bytes() != host) => {
            problems.push(FieldProblem::new("Host", "must be that of the target of the request"));
        }
        _ => {}
    }
    if headers
        .get(header::TRANSFER_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        problems.push(FieldProblem::new("Transfer-Encoding", "must be chunked"));
    }
    if problems.is_empty() { Ok(()) } else { Err(Problem::malformed_request(&problems)) }
}

/// Headers that are given twice and must not be. Costs nothing where none is.
fn repeated(headers: &HeaderMap) -> Vec<FieldProblem> {
    if headers.len() == headers.keys_len() {
        return Vec::new();
    }
    let single = [
        ("Host", &header::HOST),
        ("Authorization", &header::AUTHORIZATION),
        ("Content-Type", &header::CONTENT_TYPE),
        ("Transfer-Encoding", &header::TRANSFER_ENCODING),
        ("Idempotency-Key", &IDEMPOTENCY_KEY),
    ];
    let repeated = single.into_iter().filter(|(_, name)| headers.get_all(*name).iter().nth(1).is_some());
    repeated.map(|(name, _)| FieldProblem::new(name, "must be given once")).collect()
}

/// Whether this is a host, with a port or without, as in RFC 3986, section 3.2, without the name of a user before it.
fn is_host(text: &[u8]) -> bool {
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(byte);
    let end = match text.strip_prefix(b"[").and_then(|text| text.iter().position(|byte| *byte == b']')) {
        Some(end)
            if end > 0
                && text[1..=end].iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte)) =>
        {
            end + 2
        }
        Some(_) => return false,
        None => text.iter().position(|byte| !of_name(byte)).unwrap_or(text.len()),
    };
    match text[end..].split_first() {
        None => true,
        Some((b':', port)) => port.len() <= 5 && port.iter().all(u8::is_ascii_digit),
        Some(_) => false,
    }
}
