//! What handlers take from a request. A request that lacks it is refused.

use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::Uri;
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::problem::Problem;
use crate::ids::{FieldProblem, UserId, ulid};
use crate::json::read_object;
use crate::page::{PAGE_MAX, PageLimit, PageRequest};

/// Bytes of a body, at most. Bodies are small; the largest is that of a campaign.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// For the whole body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A ULID in the path; anything else is answered 404.
#[derive(Debug)]
pub(super) struct Id<I>(pub(super) I);

impl<I: FromStr, S: Send + Sync> FromRequestParts<S> for Id<I> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let id = path.ok().and_then(|Path(text)| text.parse().ok());
        id.map(Self).ok_or_else(|| Problem::not_found("The id is not a ULID."))
    }
}

/// A user in the path.
#[derive(Debug)]
pub(super) struct User(pub(super) UserId);

impl<S: Send + Sync> FromRequestParts<S> for User {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        // A path that is not UTF-8 is not visible ASCII either.
        let text = path.map(|Path(text)| text).unwrap_or_default();
        let user = UserId::parse(text).map_err(|error| FieldProblem::new("user_id", error.to_string()));
        user.map(Self).map_err(|error| Problem::invalid(&[error]))
    }
}

/// The query of a list.
#[derive(Debug, PartialEq, Eq)]
pub struct ListQuery {
    pub page: PageRequest,
    /// What the items must be, in the parameter of the list's own.
    pub filter: Option<String>,
}

impl ListQuery {
    /// `filter` is the name of the list's own parameter.
    ///
    /// # Errors
    /// Names the field that is invalid.
    pub fn parse(uri: &Uri, filter: &str) -> Result<Self, FieldProblem> {
        let names = ["cursor", "limit", filter];
        let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| FieldProblem::new("query", error.body_text()))?;
        let mut given = names.map(|_| None);
        for (name, value) in parameters {
            let place = names.iter().zip(&mut given).find(|(known, _)| **known == name);
            let known = || format!("is not a parameter of a list: they are {}", names.join(", "));
            let (_, place) = place.ok_or_else(|| FieldProblem::new(&name, known()))?;
            if place.replace(value).is_some() {
                return Err(FieldProblem::new(&name, "must be given once"));
            }
        }
        let [cursor, limit, filter] = given;
        let limit = match limit.map(|limit| limit.parse().ok().and_then(PageLimit::new)) {
            Some(None) => return Err(FieldProblem::new("limit", format!("must be 1 to {PAGE_MAX}"))),
            limit => limit.flatten().unwrap_or_default(),
        };
        let before = match cursor.as_deref().map(ulid) {
            Some(Err(_)) => return Err(FieldProblem::new("cursor", "must be the next of an earlier page")),
            before => before.and_then(Result::ok),
        };
        Ok(Self { page: PageRequest { before, limit }, filter })
    }
}

/// A body in JSON.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let body = read(request.into_body()).await?;
        read_object(&body).map(Self).map_err(|error| Problem::malformed(&error))
    }
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(Problem::too_large(BODY_BYTES_MAX)); // by its Content-Length
    }
    match timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Problem::too_large(BODY_BYTES_MAX))
        }
        Ok(Err(error)) => Err(Problem::malformed(&FieldProblem::new("body", error.to_string()))),
        Err(_) => Err(Problem::too_slow()),
    }
}
