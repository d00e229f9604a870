//! Refusals, as RFC 9457 problem details.

use std::error::Error;
use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::failure::Failure;
use super::problem_kind::{About, ProblemKind};
use crate::coupon::Coupon;
use crate::ids::FieldProblem;
use crate::json::Rejected;
use crate::lifecycle::{CouponChange, Reason};
use crate::storage::StorageError;

/// The bodies without members of their own, which most users get who lose, by the place of the kind.
static PLAIN: LazyLock<Vec<Bytes>> =
    LazyLock::new(|| ProblemKind::ALL.iter().map(|kind| body_of(*kind, &[])).collect());

/// The media type of problems.
pub(super) const PROBLEM_TYPE: &str = "application/problem+json";

/// What a retry does when Postgres failed a request that only reads.
pub(super) const NOTHING_CHANGED: &str = "Retry: the request only reads.";

/// A refusal: its kind, and what there is to say about this one.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    kind: ProblemKind,
    members: Vec<(&'static str, Box<RawValue>)>,
    /// Headers of this one alone.
    headers: Vec<(HeaderName, HeaderValue)>,
    failure: Option<Failure>,
}

impl Problem {
    /// `what` is a sentence, such as "No campaign has this id."
    pub(super) fn not_found(what: &'static str) -> Self {
        Self::new(ProblemKind::NotFound).with("detail", &what)
    }

    pub(super) fn no_campaign() -> Self {
        Self::not_found("No campaign has this id.")
    }

    pub(super) fn no_coupon() -> Self {
        Self::not_found("No coupon has this id or code.")
    }

    /// Headers can be read in two ways. The service closes the connection, as with all requests of this kind: it cannot be sure of
    /// where the next one begins.
    pub(super) fn malformed_request(errors: &[FieldProblem]) -> Self {
        Self::closing(ProblemKind::MalformedRequest).with("errors", &errors)
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(ProblemKind::MethodNotAllowed)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(ProblemKind::Unauthorized)
    }

    pub(super) fn credentials_unavailable() -> Self {
        Self::new(ProblemKind::CredentialsUnavailable)
    }

    pub(super) fn forbidden() -> Self {
        Self::new(ProblemKind::Forbidden)
    }

    /// `detail` has the limit that the request is beyond.
    pub(super) fn too_many_requests(detail: &str, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        Self { headers, ..Self::new(ProblemKind::TooManyRequests) }.with("detail", &detail)
    }

    /// The body has more than `limit` bytes. The service closes the connection: it does not read them.
    pub(super) fn too_large(limit: usize) -> Self {
        let error = FieldProblem::new("body", format!("must be at most {limit} bytes"));
        Self::closing(ProblemKind::TooLarge)
            .with("detail", &format!("at most {limit} bytes"))
            .with("errors", &[error])
    }

    pub(super) fn too_slow() -> Self {
        Self::new(ProblemKind::TooSlow)
    }

    /// The headers of the request say that its body is not what the service reads.
    pub(super) fn unsupported(errors: &[FieldProblem]) -> Self {
        Self::new(ProblemKind::UnsupportedMediaType).with("errors", &errors)
    }

    pub(super) fn invalid(errors: &[FieldProblem]) -> Self {
        Self::new(ProblemKind::Invalid).with("errors", &errors)
    }

    pub(super) fn not_allowed_in_state(detail: &str) -> Self {
        Self::new(ProblemKind::NotAllowedInState).with("detail", &detail)
    }

    /// The campaign has this version.
    pub(super) fn version_mismatch(version: i32) -> Self {
        Self::new(ProblemKind::VersionMismatch)
            .with("detail", &format!("The campaign has version {version} now."))
    }

    pub(super) fn not_editable(fields: &[&str], state: &str) -> Self {
        let reason = format!("is kept while the campaign is {state}");
        let errors: Vec<_> = fields.iter().map(|field| FieldProblem::new(field, reason.clone())).collect();
        Self::new(ProblemKind::NotEditableInState).with("errors", &errors)
    }

    pub(super) fn already_issued(coupon: &Coupon) -> Self {
        Self::new(ProblemKind::AlreadyIssued).with("coupon", coupon)
    }

    pub(super) fn user_limit_reached(coupon: &Coupon) -> Self {
        Self::new(ProblemKind::UserLimitReached).with("coupon", coupon)
    }

    pub(super) fn sold_out() -> Self {
        Self::new(ProblemKind::SoldOut)
    }

    /// `opens_at`, if it is known when the campaign opens.
    pub(super) fn not_open(opens_at: Option<OffsetDateTime>) -> Self {
        let problem = Self::new(ProblemKind::NotOpen);
        match opens_at.and_then(|time| time.format(&Rfc3339).ok()) {
            Some(time) => problem.with("opens_at", &time),
            None => problem,
        }
    }

    pub(super) fn closed() -> Self {
        Self::new(ProblemKind::Closed)
    }

    /// A change that a coupon does not allow, with all reasons, and the last change of the coupon, if it has one.
    pub(super) fn coupon_refused(
        kind: ProblemKind,
        reasons: &[Reason],
        last_change: Option<&CouponChange>,
    ) -> Self {
        Self::new(kind).with("reasons", &reasons).with("last_change", &last_change)
    }

    /// The newest coupon that the user holds, if there is one.
    pub(super) fn with_coupon(self, coupon: Option<&Coupon>) -> Self {
        match coupon {
            Some(coupon) => self.with("coupon", coupon),
            None => self,
        }
    }

    pub(super) fn key_required() -> Self {
        Self::new(ProblemKind::IdempotencyKeyRequired)
    }

    pub(super) fn key_reused() -> Self {
        Self::new(ProblemKind::IdempotencyKeyReused)
    }

    pub(super) fn key_in_use() -> Self {
        Self::new(ProblemKind::IdempotencyKeyInUse)
    }

    pub(super) fn gate_unavailable() -> Self {
        Self::new(ProblemKind::GateUnavailable)
    }

    pub(super) fn overloaded() -> Self {
        Self::new(ProblemKind::Overloaded)
    }

    /// `detail` says what a retry does.
    pub(super) fn storage_unavailable(detail: &'static str) -> Self {
        Self::new(ProblemKind::StorageUnavailable).with("detail", &detail)
    }

    /// A request that Postgres failed. `detail` says what a retry does.
    pub(super) fn storage(error: StorageError, detail: &'static str) -> Self {
        let what = "the database failed a request";
        match &error {
            StorageError::Unavailable(_) => Self::storage_unavailable(detail).because(what, error),
            StorageError::Overloaded => Self::overloaded().refused(what, error),
            StorageError::Refused(_) => Self::internal(what, error),
        }
    }

    /// A fault of this program. `what` says in the log what it could not do.
    pub(super) fn internal(what: &'static str, error: impl Error + Send + Sync + 'static) -> Self {
        Self::new(ProblemKind::Internal).because(what, error)
    }

    /// A refusal that thousands of requests may get while one part is away, which the log says by itself. It names those
    /// whose traces are recorded.
    pub(super) fn refused(self, what: &'static str, error: impl Error + Send + Sync + 'static) -> Self {
        self.failed(what, error, true)
    }

    fn because(self, what: &'static str, error: impl Error + Send + Sync + 'static) -> Self {
        self.failed(what, error, false)
    }

    fn failed(
        mut self,
        what: &'static str,
        error: impl Error + Send + Sync + 'static,
        only_sampled: bool,
    ) -> Self {
        self.failure = Some(Failure::new(self.kind, what, error, only_sampled));
        self
    }

    #[cfg(test)]
    pub(super) fn kind(&self) -> ProblemKind {
        self.kind
    }

    fn new(kind: ProblemKind) -> Self {
        Self { kind, members: Vec::new(), headers: Vec::new(), failure: None }
    }

    /// The connection ends with the answer.
    fn closing(kind: ProblemKind) -> Self {
        let close = (header::CONNECTION, HeaderValue::from_static("close"));
        Self { headers: vec![close], ..Self::new(kind) }
    }

    fn with(mut self, name: &'static str, value: &impl Serialize) -> Self {
        match to_raw_value(value) {
            Ok(value) => self.members.push((name, value)),
            Err(error) => tracing::error!(%error, name, "a member of a problem cannot be written as JSON"),
        }
        self
    }
}

impl From<Rejected> for Problem {
    fn from(rejected: Rejected) -> Self {
        let kind = if rejected.malformed { ProblemKind::MalformedBody } else { ProblemKind::Invalid };
        Self::new(kind).with("errors", &rejected.problems)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let about = self.kind.about();
        let body = if self.members.is_empty() { plain(self.kind) } else { body_of(self.kind, &self.members) };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = about.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
        headers.extend(about.header());
        headers.extend(self.headers);
        if let Some(failure) = self.failure {
            response.extensions_mut().insert(failure);
        }
        response
    }
}

/// The kind of a request that cannot be read and is answered with this status.
pub(super) fn unreadable(status: &str) -> Option<ProblemKind> {
    let mut kinds = [ProblemKind::MalformedRequest, ProblemKind::HeaderTooLarge].into_iter();
    kinds.find(|kind| kind.about().status.as_str() == status)
}

/// The body of a problem without members of its own.
pub(super) fn plain(kind: ProblemKind) -> Bytes {
    PLAIN.get(kind as usize).cloned().unwrap_or_else(|| body_of(kind, &[]))
}

/// As JSON. Path, title and names have no character that JSON escapes.
fn body_of(kind: ProblemKind, members: &[(&'static str, Box<RawValue>)]) -> Bytes {
    let About { status, path, title, .. } = kind.about();
    let status = status.as_u16();
    let mut body = format!(r#"{{"type":"{path}","title":"{title}","status":{status}"#);
    for (name, value) in members {
        body.extend([",\"", name, "\":", value.get()]);
    }
    body.push('}');
    body.into()
}
