//! Everything that is refused, as RFC 9457 problem details: the only place with status codes.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::campaign::change::ChangeError;
use crate::coupon::Coupon;
use crate::ids::FieldProblem;
use crate::issue::{ClaimError, IssueError};
use crate::storage::StorageError;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    NotFound(&'static str),
    MethodNotAllowed,
    Unauthorized,
    TooLarge { limit: usize },
    TooSlow,
    Malformed(FieldProblem),
    Invalid(Vec<FieldProblem>),
    NotAllowedInState(String),
    AlreadyIssued(Box<Coupon>),
    UserLimitReached(Box<Coupon>),
    SoldOut,
    NotOpen { opens_at: OffsetDateTime },
    Closed,
    GateUnavailable,
    Overloaded,
    StorageUnavailable,
    Internal,
}

impl Problem {
    /// The status, the slug that never changes, and a title for people.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not-found", "There is no such thing."),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "This cannot be done here.")
            }
            Self::Unauthorized => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "A valid bearer token is needed.")
            }
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large."),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too-slow", "The body did not come in time."),
            Self::Malformed(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "malformed-body", "The body cannot be read.")
            }
            Self::Invalid(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Some fields cannot be as they are.")
            }
            Self::NotAllowedInState(_) => {
                (StatusCode::CONFLICT, "not-allowed-in-state", "The campaign's state does not allow this.")
            }
            Self::AlreadyIssued(_) => (StatusCode::CONFLICT, "already-issued", "The user has his coupon."),
            Self::UserLimitReached(_) => {
                (StatusCode::CONFLICT, "user-limit-reached", "The user has as many coupons as one may have.")
            }
            Self::SoldOut => (StatusCode::GONE, "sold-out", "All coupons are issued."),
            Self::NotOpen { .. } => (StatusCode::FORBIDDEN, "not-open", "The campaign is not open."),
            Self::Closed => (StatusCode::GONE, "closed", "The campaign is closed."),
            Self::GateUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "gate-unavailable",
                "Claims cannot be taken at this moment.",
            ),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Too many ask at once."),
            Self::StorageUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "storage-unavailable", "The database cannot be reached.")
            }
            Self::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something is wrong with the service.")
            }
        }
    }

    /// What this one has to say beyond its kind.
    fn members(self) -> Vec<(&'static str, Value)> {
        match self {
            Self::NotFound(what) => vec![("detail", json!(what))],
            Self::TooLarge { limit } => {
                vec![
                    ("detail", json!(format!("at most {limit} bytes"))),
                    ("errors", json!([FieldProblem::new("body", format!("must be at most {limit} bytes"))])),
                ]
            }
            Self::Malformed(problem) => vec![("errors", json!([problem]))],
            Self::Invalid(problems) => vec![("errors", json!(problems))],
            Self::NotAllowedInState(detail) => vec![("detail", json!(detail))],
            Self::AlreadyIssued(coupon) | Self::UserLimitReached(coupon) => vec![("coupon", json!(coupon))],
            Self::NotOpen { opens_at } => {
                vec![("opens_at", json!(opens_at.format(&Rfc3339).unwrap_or_default()))]
            }
            Self::StorageUnavailable => {
                vec![("detail", json!("Ask again: the answer will be the coupon, or why there is none."))]
            }
            Self::MethodNotAllowed
            | Self::Unauthorized
            | Self::TooSlow
            | Self::SoldOut
            | Self::Closed
            | Self::GateUnavailable
            | Self::Overloaded
            | Self::Internal => Vec::new(),
        }
    }

    /// For those that pass by themselves: when to ask again, in seconds.
    fn retry_after(&self) -> Option<HeaderValue> {
        let passes = self.kind().0 == StatusCode::SERVICE_UNAVAILABLE;
        passes.then_some(HeaderValue::from_static("1"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let (status, slug, title) = self.kind();
        let retry_after = self.retry_after();
        let challenge = (status == StatusCode::UNAUTHORIZED).then_some(HeaderValue::from_static("Bearer"));
        let mut body = Map::new();
        body.insert("type".to_owned(), json!(slug));
        body.insert("title".to_owned(), json!(title));
        body.insert("status".to_owned(), json!(status.as_u16()));
        body.extend(self.members().into_iter().map(|(name, value)| (name.to_owned(), value)));
        let mut response = Response::new(Body::from(Value::Object(body).to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(retry_after.map(|value| (header::RETRY_AFTER, value)));
        headers.extend(challenge.map(|value| (header::WWW_AUTHENTICATE, value)));
        response
    }
}

impl From<IssueError> for Problem {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Claim(ClaimError::GateUnreachable | ClaimError::GateUnloaded) => {
                Self::GateUnavailable
            }
            IssueError::Claim(ClaimError::Overloaded) => Self::Overloaded,
            IssueError::Claim(ClaimError::NotWritten | ClaimError::Unknown) => Self::StorageUnavailable,
            IssueError::Storage(error) => error.into(),
        }
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Unknown => Self::NotFound("There is no such campaign."),
            ChangeError::NotAllowed { .. } => Self::NotAllowedInState(error.to_string()),
            ChangeError::Storage(error) => error.into(),
            ChangeError::Refused(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "an event was refused");
                Self::Internal
            }
        }
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        StorageError::from(error).into()
    }
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "the database failed a request");
        match error {
            StorageError::Unavailable(_) => Self::StorageUnavailable,
            StorageError::Refused(_) => Self::Internal,
        }
    }
}
