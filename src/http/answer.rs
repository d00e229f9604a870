//! Answers that are not refusals: the room of their status codes.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use super::problem::Problem;
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
    /// The process cannot do its work; the body says what is missing.
    Unready(T),
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let (status, location, body) = match self {
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

/// A page of a list: its items under a name of their own, and `next`, the cursor of the next page or null.
#[derive(Debug)]
pub(super) struct Listed<T, I> {
    pub(super) name: &'static str,
    pub(super) page: Page<T, I>,
}

impl<T: Serialize, I: Serialize> Serialize for Listed<T, I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(self.name, &self.page.items)?;
        map.serialize_entry("next", &self.page.next)?;
        map.end()
    }
}
