//! What routes take from a request, refused as problems.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Uri};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use outbox_relay::event::{id_of, is_array};
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq as _;
use tokio::time::timeout;
use ulid::Ulid;

use super::Api;
use super::problem::Problem;
use crate::cause::{Cause, IdempotencyKey, Traceparent};
use crate::config::Secret;
use crate::identity::Principal;
use crate::ids::{CampaignId, FieldProblem};

/// Bodies are small; the largest is that of a campaign.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// For the whole body to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The request carries the administrator's token.
pub(super) struct Authorized(Principal);

impl FromRequestParts<Arc<Api>> for Authorized {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let given = parts.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        if is_authorized(given, api.admin_token.as_ref()) {
            Ok(Self(Principal::Administrator))
        } else {
            Err(Problem::Unauthorized)
        }
    }
}

/// Whether the header `Authorization` carries the token; nobody is authorized where there is none.
#[must_use]
pub fn is_authorized(header: Option<&[u8]>, token: Option<&Secret>) -> bool {
    let given = header.and_then(|header| header.strip_prefix(b"Bearer "));
    given.zip(token).is_some_and(|(given, token)| given.ct_eq(token.reveal().as_bytes()).into())
}

/// An id in the path. What is no ULID is not found.
pub(super) struct Id(pub(super) Ulid);

impl FromRequestParts<Arc<Api>> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, api).await.map_err(|_| NO_SUCH_ID)?;
        id_of(&text).map(Self).ok_or(NO_SUCH_ID)
    }
}

const NO_SUCH_ID: Problem = Problem::NotFound("The id is not a ULID.");

impl From<Id> for CampaignId {
    fn from(id: Id) -> Self {
        Self(id.0)
    }
}

/// The request itself, as the cause of what follows from it. Headers that cannot be read count as absent.
pub(super) struct Caused(pub(super) Cause);

impl FromRequestParts<Arc<Api>> for Caused {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let Authorized(principal) = Authorized::from_request_parts(parts, api).await?;
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        Ok(Self(Cause {
            traceparent: header("traceparent").and_then(Traceparent::parse),
            principal,
            key: header("idempotency-key").and_then(IdempotencyKey::parse),
        }))
    }
}

/// Where a page of a list starts, and how long it is.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    cursor: Option<String>,
    limit: Option<i64>,
    status: Option<String>,
}

/// The query of a list.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub before: Option<Ulid>,
    pub limit: i64,
    pub status: Option<String>,
}

const PAGE_DEFAULT: i64 = 50;
const PAGE_MAX: i64 = 200;

/// The page that a request asks for.
pub(super) struct Paged(pub(super) Page);

impl FromRequestParts<Arc<Api>> for Paged {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, Problem> {
        Page::parse(&parts.uri).map(Self).map_err(|problem| Problem::Invalid(vec![problem]))
    }
}

impl Page {
    /// # Errors
    /// Names the field that cannot be.
    pub fn parse(uri: &Uri) -> Result<Self, FieldProblem> {
        let Query(query) = Query::<PageQuery>::try_from_uri(uri)
            .map_err(|error| FieldProblem::new("query", error.body_text()))?;
        let limit = query.limit.unwrap_or(PAGE_DEFAULT);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(FieldProblem::new("limit", format!("must be 1 to {PAGE_MAX}")));
        }
        let before = match query.cursor.as_deref().map(id_of) {
            Some(None) => return Err(FieldProblem::new("cursor", "must be the next of an earlier page")),
            before => before.flatten(),
        };
        Ok(Self { before, limit, status: query.status })
    }
}

/// A body in JSON.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Arc<Api>) -> Result<Self, Problem> {
        let body = read(request.into_body()).await?;
        parse_body(&body).map(Self).map_err(Problem::Malformed)
    }
}

/// Reads a JSON object.
///
/// # Errors
/// Names the field that cannot be read.
pub fn parse_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, FieldProblem> {
    if is_array(body) {
        return Err(FieldProblem::new("body", "must be an object"));
    }
    let mut parser = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut parser).map_err(|error| {
        let path = error.path().to_string();
        field_problem(&path, &error.into_inner())
    })?;
    parser.end().map_err(|error| field_problem(".", &error))?;
    Ok(value)
}

/// A field that is missing or unknown is named in the message, any other by its path.
fn field_problem(path: &str, error: &serde_json::Error) -> FieldProblem {
    let message = error.to_string();
    let named = message
        .strip_prefix("missing field `")
        .or_else(|| message.strip_prefix("unknown field `"))
        .and_then(|rest| rest.split('`').next());
    let path = if [".", "?"].contains(&path) { "body" } else { path };
    let field = [named, Some(path)].into_iter().flatten().find(|name| !name.is_empty()).unwrap_or("body");
    FieldProblem::new(field, message.clone())
}

async fn read(body: Body) -> Result<bytes::Bytes, Problem> {
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(Problem::TooLarge { limit: BODY_BYTES_MAX }); // by its Content-Length
    }
    match timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Problem::TooLarge { limit: BODY_BYTES_MAX })
        }
        Ok(Err(error)) => Err(Problem::Malformed(FieldProblem::new("body", error.to_string()))),
        Err(_) => Err(Problem::TooSlow),
    }
}
