//! Errors of the client: the API refuses, or does not answer.

use std::fmt::Display;

use hyper::StatusCode;

/// What came in place of what was asked for. It is in the errors of [`Client`](super::Client).
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API refuses: what its problem says, with each field on a line of its own.
    #[error("{status}: {problem}")]
    Refused { status: u16, problem: String },
    /// The API cannot be reached, or ends the connection without an answer.
    #[error("{0}")]
    NoAnswer(String),
}

/// What a caller can do about an [`ApiError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiFailure {
    /// Send another token.
    Token,
    /// Name something that exists.
    NotFound,
    /// Try again later.
    Unavailable,
    /// Change the request, or what it is about.
    Refused,
}

impl ApiError {
    #[must_use]
    pub fn failure(&self) -> ApiFailure {
        let Self::Refused { status, .. } = self else { return ApiFailure::Unavailable };
        match StatusCode::from_u16(*status) {
            Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => ApiFailure::Token,
            Ok(StatusCode::NOT_FOUND) => ApiFailure::NotFound,
            Ok(StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT) => ApiFailure::Unavailable,
            Ok(status) if status.is_server_error() => ApiFailure::Unavailable,
            _ => ApiFailure::Refused,
        }
    }
}

/// No answer, for this reason.
pub(super) fn silent(why: impl Display) -> anyhow::Error {
    ApiError::NoAnswer(why.to_string()).into()
}
