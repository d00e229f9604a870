//! The admin API from a shell or a program, over HTTP or HTTPS.
//!
//! The one client of the API. `identity::jwt::fetch` fetches the keys of end users with the same TLS. The load generators
//! do without it on purpose: [`crate::rush`] and the benches decide themselves on which connection a request goes, and
//! count what becomes of it.

mod error;
mod trust;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, IF_MATCH, RETRY_AFTER};
use hyper::{HeaderMap, Method, Request, StatusCode};
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use self::error::silent;
pub use self::error::{ApiError, ApiFailure};
pub(crate) use self::trust::tls;
use self::trust::{Http, explained, http};
use crate::config::{Access, Authorities, Secret};

/// For one request, from the connection to the last byte of the answer: longer than the API takes for any.
const API_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes of an answer, at most: a page of 200 campaigns has about 100 KB.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A request with this header that is repeated has one effect, and gets the answer of the first one.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// In the answer to a request that had its effect before.
const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";

/// What the API has answered, whatever the status.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// JSON, or a text if it is none.
    pub body: Value,
    /// The header `Retry-After`: when the same request may be sent again.
    pub retry_after: Option<Duration>,
    /// Whether an earlier request with the same idempotency key got this answer first.
    pub is_replayed: bool,
}

/// A client of one API.
#[derive(Debug)]
pub struct Client {
    /// Made by the first request, which reads the certificate authorities.
    http: OnceCell<Http>,
    url: String,
    token: Secret,
    /// For messages; may be empty.
    token_from: String,
    authorities: Option<Authorities>,
}

impl Client {
    /// `url` is like `http://127.0.0.1:8080` or `https://coupons.example.com`. Over HTTPS the server's certificate must
    /// come from a certificate authority of the system or, if it is set, of `SSL_CERT_FILE`.
    #[must_use]
    pub fn new(url: &str, token: Secret) -> Self {
        Self::of(Access { url: url.to_owned(), token, token_from: String::new(), authorities: None })
    }

    /// The same with authorities of its own, if there are any.
    #[must_use]
    pub fn of(Access { url, token, token_from, authorities }: Access) -> Self {
        let url = url.trim_end_matches('/').to_owned();
        Self { http: OnceCell::new(), url, token, token_from, authorities }
    }

    /// Returns the body of the answer: JSON, or a text if it is none.
    ///
    /// # Errors
    /// With an [`ApiError`] if the API refuses or does not answer. A URL that leads to no API is named, too.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None, None).await
    }

    /// Returns the body of the answer, as [`Client::get`] does.
    ///
    /// # Errors
    /// As those of [`Client::get`].
    pub async fn post(&self, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.call(Method::POST, path, body, None).await
    }

    /// Changes what has this path, if its version is `version` or that does not matter. Returns the body of the answer.
    ///
    /// # Errors
    /// As those of [`Client::get`].
    pub async fn patch(&self, path: &str, body: &Value, version: Option<i32>) -> anyhow::Result<Value> {
        let version = version.map(|version| (IF_MATCH, format!("\"{version}\"")));
        self.call(Method::PATCH, path, Some(body), version).await
    }

    /// Sends a request that has one effect, however often it is repeated with the same key. Returns a refusal as a reply.
    ///
    /// # Errors
    /// With an [`ApiError`] if the API does not answer.
    pub async fn post_once(&self, path: &str, body: &Value, key: &str) -> anyhow::Result<Reply> {
        self.send(Method::POST, path, Some(body), Some((IDEMPOTENCY_KEY, key.to_owned()))).await
    }

    /// A refusal as an error.
    #[must_use]
    pub fn refusal(&self, reply: &Reply) -> ApiError {
        let (status, problem) = (reply.status, refusal(&reply.body));
        let problem = match status {
            401 | 403 if !self.token_from.is_empty() => {
                format!("{problem}; the token is that of {}", self.token_from)
            }
            _ => problem,
        };
        ApiError::Refused { status, problem }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        header: Option<(HeaderName, String)>,
    ) -> anyhow::Result<Value> {
        let reply = self.send(method, path, body, header).await?;
        if (200..300).contains(&reply.status) {
            return Ok(reply.body);
        }
        Err(self.refusal(&reply).into())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        header: Option<(HeaderName, String)>,
    ) -> anyhow::Result<Reply> {
        // Errors show the URL.
        ensure!(
            !self.url.contains('@'),
            "the URL of the API holds a login, which the API does not use: put the token into COUPON_TOKEN or ADMIN_TOKEN"
        );
        let mut request = Request::builder();
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(AUTHORIZATION, format!("Bearer {}", self.token.reveal()))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.map(Value::to_string).unwrap_or_default()))
            .with_context(|| format!("{} is not a URL of the API", self.url))?;
        let exchange = timeout(API_TIMEOUT, self.exchange(request)).await;
        let (status, headers, body) = exchange
            .unwrap_or_else(|_| Err(silent(format_args!("no answer within {} s", API_TIMEOUT.as_secs()))))
            .with_context(|| format!("ask the API at {}", self.url))?;
        Ok(Reply {
            status: status.as_u16(),
            body: serde_json::from_slice(&body)
                .unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into()),
            retry_after: retry_after(&headers),
            is_replayed: headers.contains_key(IDEMPOTENCY_REPLAYED),
        })
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<(StatusCode, HeaderMap, Bytes)> {
        let http = self.http.get_or_try_init(async || http(&self.url, self.authorities.as_ref())).await?;
        let response = http.request(request).await.map_err(|error| explained(&error))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| silent(format_args!("read the answer: {error}")))?;
        Ok((parts.status, parts.headers, body.to_bytes()))
    }
}

/// The header `Retry-After` in seconds, which is how this API gives it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// What an RFC 9457 problem says: its title, its detail, and a line for each field, reason, and the last change of a coupon.
fn refusal(problem: &Value) -> String {
    let title = problem["title"].as_str().unwrap_or("the API refuses");
    let detail = problem["detail"].as_str().map(|detail| format!(" ({detail})")).unwrap_or_default();
    let fields = problem["errors"].as_array().into_iter().flatten().map(|error| {
        let [field, reason] = ["field", "reason"].map(|name| error[name].as_str().unwrap_or(""));
        format!("\n  {field} {reason}")
    });
    let reasons = problem["reasons"].as_array().into_iter().flatten();
    let reasons = reasons.filter_map(Value::as_str).map(|reason| format!("\n  {reason}"));
    let last = &problem["last_change"];
    let last = last["kind"].as_str().map(|kind| {
        let [at, order] = ["at", "order_ref"].map(|name| last[name].as_str());
        let order = order.map(|order| format!(" for {order}")).unwrap_or_default();
        format!("\n  last change: {kind}{order}, {}", at.unwrap_or_default())
    });
    let more: String = fields.chain(reasons).chain(last).collect();
    let said = format!("{title}{detail}{more}");
    // On a terminal an answer of any server does nothing but stand there.
    said.chars().map(|letter| if letter.is_control() && letter != '\n' { ' ' } else { letter }).collect()
}
