//! Headers that two servers may read differently, so that whatever stands between client and service sees another request:
//! the service reads neither way and refuses them with 400.
//!
//! Headers that have one value, given twice: RFC 9110, section 5.3, lets nobody send them, and RFC 6750, section 3.1,
//! forbids a repeated token. No `Host` in HTTP/1.1, a second, or one that is no host: RFC 9112, section 3.2. A
//! `Transfer-Encoding` of several codings, of which the HTTP library would look at the last alone: section 6.1.
//!
//! `Content-Length` is not among them: the HTTP library refuses two that differ, and makes one of two that are the same, as
//! RFC 9110, section 8.6, has it. Of `Request-Id` and `traceparent`, which change no answer, two count as none.

use axum::http::{HeaderMap, HeaderName, Request, Version, header};

use super::problem::Problem;
use crate::ids::FieldProblem;

/// The header of the key of a request.
pub(super) static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Refuses a request that another server may read differently.
pub(super) fn refuse<B>(request: &Request<B>) -> Result<(), Problem> {
    let headers = request.headers();
    let mut problems = repeated(headers);
    match headers.get(header::HOST) {
        None if request.version() == Version::HTTP_11 => {
            problems.push(FieldProblem::new("Host", "is missing"));
        }
        Some(host) if !host.as_bytes().iter().all(|byte| is_of_host(*byte)) => {
            problems.push(FieldProblem::new("Host", "must be a name or an address, and a port if need be"));
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

/// Whether a host and a port can have this character: RFC 3986, section 3.2, without the name of a user before them.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(&byte)
}
