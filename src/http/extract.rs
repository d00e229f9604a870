//! What handlers take from a request. A request that lacks it is refused.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::timeout;

use super::problem::Problem;
use crate::campaign::edit::Expected;
use crate::ids::{FieldProblem, UserId, ulid};
use crate::json::{Object, Rejected, UNKNOWN_NAMED_MAX};
use crate::page::{PAGE_MAX, PageLimit, PageRequest};

/// Bytes of a body, at most. Bodies are small; the largest is that of a campaign.
pub(super) const BODY_BYTES_MAX: usize = 16 * 1024;
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

/// A query without parameters.
#[derive(Debug)]
pub(super) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        if parts.uri.query().is_none_or(str::is_empty) {
            return Ok(Self);
        }
        let ([], problems) = parameters(&parts.uri, []);
        if problems.is_empty() { Ok(Self) } else { Err(Problem::invalid(&problems)) }
    }
}

/// The query of a list.
#[derive(Debug, PartialEq, Eq)]
pub struct ListQuery<F> {
    pub page: PageRequest,
    /// What the items must be, in the parameter of the list's own.
    pub filter: Option<F>,
}

impl<F: FromStr<Err: Display>> ListQuery<F> {
    /// `filter` is the name of the list's own parameter.
    ///
    /// # Errors
    /// Names every parameter that is wrong.
    pub fn parse(uri: &Uri, filter: &str) -> Result<Self, Vec<FieldProblem>> {
        let ([cursor, limit, own], mut problems) = parameters(uri, ["cursor", "limit", filter]);
        let page = page_in(cursor, limit, &mut problems);
        let own = own.map(|own| own.parse::<F>()).transpose();
        let own = own.map_err(|error| problems.push(FieldProblem::new(filter, error.to_string())));
        match own {
            Ok(filter) if problems.is_empty() => Ok(Self { page, filter }),
            Ok(_) | Err(()) => Err(problems),
        }
    }
}

/// The query of a list that has no parameter of its own.
pub(super) fn page_of(uri: &Uri) -> Result<PageRequest, Vec<FieldProblem>> {
    let ([cursor, limit], mut problems) = parameters(uri, ["cursor", "limit"]);
    let page = page_in(cursor, limit, &mut problems);
    if problems.is_empty() { Ok(page) } else { Err(problems) }
}

/// The page that these parameters ask for, if nothing is wrong with them.
fn page_in(cursor: Option<String>, limit: Option<String>, problems: &mut Vec<FieldProblem>) -> PageRequest {
    let limit = limit.map(|limit| {
        let digits = limit.bytes().all(|byte| byte.is_ascii_digit()); // `parse` also takes a plus sign
        digits.then(|| limit.parse().ok()).flatten().and_then(PageLimit::new)
    });
    if limit == Some(None) {
        problems.push(FieldProblem::new("limit", format!("must be 1 to {PAGE_MAX}")));
    }
    let before = cursor.map(|cursor| ulid(&cursor));
    if let Some(Err(_)) = before {
        problems.push(FieldProblem::new("cursor", "must be the next of an earlier page"));
    }
    PageRequest { before: before.and_then(Result::ok), limit: limit.flatten().unwrap_or_default() }
}

/// The only parameter of a query, which must be there.
pub(super) fn one_parameter<T: FromStr<Err: Display>>(uri: &Uri, name: &str) -> Result<T, Vec<FieldProblem>> {
    parameter(uri, name)?.ok_or_else(|| vec![FieldProblem::new(name, "is missing")])
}

/// The only parameter of a query, if it is there.
pub(super) fn parameter<T: FromStr<Err: Display>>(
    uri: &Uri,
    name: &str,
) -> Result<Option<T>, Vec<FieldProblem>> {
    let ([given], problems) = parameters(uri, [name]);
    if !problems.is_empty() {
        return Err(problems);
    }
    let value = given.map(|text| text.parse()).transpose();
    value.map_err(|error: T::Err| vec![FieldProblem::new(name, error.to_string())])
}

/// The parameters of a query, by their names, and what is wrong with others.
fn parameters<const N: usize>(uri: &Uri, names: [&str; N]) -> ([Option<String>; N], Vec<FieldProblem>) {
    let (mut given, mut problems) = (names.map(|_| None), Vec::<FieldProblem>::new());
    let parameters = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let Ok(Query(parameters)) = parameters else {
        return (given, vec![FieldProblem::new("query", "must be parameters such as limit=10")]);
    };
    for (name, value) in parameters {
        let reason = match names.iter().zip(&mut given).find(|(known, _)| **known == name) {
            Some((_, place @ None)) => {
                *place = Some(value);
                continue;
            }
            Some(_) => "must be given once".to_owned(),
            None if N == 0 => "is unknown: this route has no parameters".to_owned(),
            None => format!("is unknown: the parameters are {}", names.join(", ")),
        };
        let problem = FieldProblem::new(&name, reason);
        if problems.len() < UNKNOWN_NAMED_MAX && !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    (given, problems)
}

/// The bytes of a body whose headers say that it is JSON, or do not say what it is.
#[derive(Debug)]
pub(super) struct JsonBody(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let problems = not_json(request.headers());
        if !problems.is_empty() {
            return Err(Problem::unsupported(&problems));
        }
        read(request.into_body()).await.map(Self)
    }
}

/// No body, or one that says nothing: `null`, or an object without fields.
#[derive(Debug)]
pub(super) struct NoBody;

impl<S: Send + Sync> FromRequest<S> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if request.body().is_end_stream() {
            return Ok(Self);
        }
        let JsonBody(body) = JsonBody::from_request(request, state).await?;
        if [&b""[..], b"null"].contains(&body.trim_ascii()) {
            return Ok(Self);
        }
        let problems = Object::read(&body, []).map_err(Rejected::from)?.into_problems();
        if problems.is_empty() { Ok(Self) } else { Err(Rejected { malformed: true, problems }.into()) }
    }
}

/// The versions in a header `If-Match`, as RFC 9110, section 13.1.1, has it: `*`, or versions in quotation marks, separated
/// by commas. Without the header any version will do.
/// With what else the request has.
#[derive(Debug)]
pub(super) struct IfMatch<T>(pub(super) Expected, pub(super) T);

impl<S: Send + Sync, T: FromRequest<S, Rejection = Problem>> FromRequest<S> for IfMatch<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let expected = expected(request.headers())?;
        Ok(Self(expected, T::from_request(request, state).await?))
    }
}

fn expected(headers: &HeaderMap) -> Result<Expected, Problem> {
    let mut values = headers.get_all(header::IF_MATCH).iter().peekable();
    if values.peek().is_none() {
        return Ok(Expected::Any);
    }
    let texts: Option<Vec<&str>> = values.map(|value| value.to_str().ok()).collect();
    let expected = texts.and_then(|texts| match &*texts {
        ["*"] => Some(Expected::Any),
        texts => {
            let tags = texts.iter().flat_map(|text| text.split(','));
            tags.map(version).collect::<Option<_>>().map(Expected::OneOf)
        }
    });
    let reason = "must be * or the version in quotation marks, such as \"3\"";
    expected.ok_or_else(|| Problem::invalid(&[FieldProblem::new("If-Match", reason)]))
}

/// A version in quotation marks. None of a campaign is 0.
fn version(text: &str) -> Option<i32> {
    let tag = text.trim().strip_prefix('"')?.strip_suffix('"').filter(|tag| !tag.contains('"'))?;
    Some(tag.parse().ok().filter(|version: &i32| version.to_string() == tag).unwrap_or_default())
}

/// What the headers say against JSON in UTF-8.
fn not_json(headers: &HeaderMap) -> Vec<FieldProblem> {
    let mut problems = Vec::new();
    if !headers.get_all(header::CONTENT_TYPE).iter().all(|value| value.to_str().is_ok_and(is_json)) {
        problems.push(FieldProblem::new("Content-Type", "must be application/json, in UTF-8"));
    }
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    if !encodings.all(|value| value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        problems.push(FieldProblem::new("Content-Encoding", "must be missing: bodies are read as they are"));
    }
    problems
}

/// Whether a media type is JSON, or based on it as `application/ld+json` is, in UTF-8 as far as it says.
fn is_json(media_type: &str) -> bool {
    let mut parts = media_type.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    let subtype = name.strip_prefix("application/");
    subtype.is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
        && parts.all(|parameter| match parameter.split_once('=') {
            Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
                value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
            }
            Some(_) => true,
            None => parameter.is_empty(),
        })
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    match timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Problem::too_large(BODY_BYTES_MAX))
        }
        Ok(Err(_)) => {
            let reason = "is cut off, or has chunks that cannot be read";
            Err(Rejected::from(FieldProblem::new("body", reason)).into())
        }
        Err(_) => Err(Problem::too_slow()),
    }
}
