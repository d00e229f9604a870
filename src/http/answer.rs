//! Answers that are not refusals: the room of their status codes.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};
use serde_json::Error;

use super::problem::Problem;
use crate::idempotency::{Once, Recorded};
use crate::page::Page;

/// An answer with a body in JSON.
#[derive(Debug)]
pub(super) enum Answer<T> {
    Ok(T),
    /// `location` is the path of what was created.
    Created {
        location: String,
        body: T,
    },
    /// The answer to an earlier request with the same idempotency key.
    Replayed(Recorded),
    /// The process cannot do its work; the body says what is missing.
    Unready(T),
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let (status, location, body) = match self {
            Self::Replayed(recorded) => return replayed(recorded),
            Self::Ok(body) => (StatusCode::OK, None, body),
            Self::Created { location, body } => (StatusCode::CREATED, Some(location), body),
            Self::Unready(body) => (StatusCode::SERVICE_UNAVAILABLE, None, body),
        };
        let body = match serde_json::to_vec(&body) {
            Ok(body) => Body::from(body),
            Err(error) => {
                return Problem::internal("an answer cannot be written as JSON", error).into_response();
            }
        };
        let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let location = location.map(|location| [(header::LOCATION, location)]);
        (status, [content_type], location, body).into_response()
    }
}

/// [`Answer::Ok`], as it is kept with an idempotency key.
pub(super) fn recorded_ok(body: &impl Serialize) -> Result<Recorded, Error> {
    recorded(StatusCode::OK, None, body)
}

/// [`Answer::Created`], as it is kept with an idempotency key.
pub(super) fn recorded_created(location: String, body: &impl Serialize) -> Result<Recorded, Error> {
    recorded(StatusCode::CREATED, Some(location), body)
}

fn recorded(status: StatusCode, location: Option<String>, body: &impl Serialize) -> Result<Recorded, Error> {
    Ok(Recorded { status: status.as_u16(), location, body: serde_json::to_string(body)? })
}

impl<T> From<Once<T>> for Answer<T> {
    fn from(once: Once<T>) -> Self {
        match once {
            Once::First(body) => Self::Ok(body),
            Once::Replayed(recorded) => Self::Replayed(recorded),
        }
    }
}

fn replayed(Recorded { status, location, body }: Recorded) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true")),
    ];
    let location = location.map(|location| [(header::LOCATION, location)]);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    (status, headers, location, body).into_response()
}

/// A page of a list: its items under a name of their own, `next`, the cursor of the next page or null, and `unreadable`, the
/// ids of items that are left out, if there are any.
#[derive(Debug)]
pub(super) struct Listed<T, I> {
    pub(super) name: &'static str,
    pub(super) page: Page<T, I>,
}

impl<T: Serialize, I: Serialize> Serialize for Listed<T, I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(self.name, &self.page.items)?;
        map.serialize_entry("next", &self.page.next)?;
        if !self.page.unreadable.is_empty() {
            map.serialize_entry("unreadable", &self.page.unreadable)?;
        }
        map.end()
    }
}
