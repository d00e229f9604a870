//! Headers that have one value, given twice. Whatever stands between client and service may read the other value, so the
//! service reads neither: RFC 9110, section 5.3, lets nobody send them, RFC 9112, section 3.2, has a second `Host` answered
//! 400, and RFC 6750, section 3.1, a repeated token.
//!
//! `Content-Length` is not among them: the HTTP library refuses two that differ, and makes one of two that are the same, as
//! RFC 9110, section 8.6, has it. Of `Request-Id` and `traceparent`, which change no answer, two count as none.

use axum::http::{HeaderMap, HeaderName, header};

use super::problem::Problem;
use crate::ids::FieldProblem;

/// The header of the key of a request.
pub(super) static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Refuses headers in which one is given twice that must not be. Costs nothing where none is.
pub(super) fn refuse(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.len() == headers.keys_len() {
        return Ok(());
    }
    let single = [
        ("Host", &header::HOST),
        ("Authorization", &header::AUTHORIZATION),
        ("Content-Type", &header::CONTENT_TYPE),
        ("Idempotency-Key", &IDEMPOTENCY_KEY),
    ];
    let repeated = single.into_iter().filter(|(_, name)| headers.get_all(*name).iter().nth(1).is_some());
    let problems: Vec<_> = repeated.map(|(name, _)| FieldProblem::new(name, "must be given once")).collect();
    if problems.is_empty() { Ok(()) } else { Err(Problem::malformed_request(&problems)) }
}
