//! The admin API from a shell or a program.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;

use crate::config::Secret;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// A client of one API, over plain HTTP.
#[derive(Debug)]
pub struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    url: String,
    token: Secret,
}

impl Client {
    /// `url` is like `http://127.0.0.1:8080`.
    #[must_use]
    pub fn new(url: &str, token: Secret) -> Self {
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        Self { http, url: url.trim_end_matches('/').to_owned(), token }
    }

    /// # Errors
    /// With the title and the fields of the problem, when the API refuses.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// # Errors
    /// With the title and the fields of the problem, when the API refuses.
    pub async fn post(&self, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.call(Method::POST, path, body).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(AUTHORIZATION, format!("Bearer {}", self.token.reveal()))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.map(Value::to_string).unwrap_or_default()))
            .with_context(|| format!("{} is not a URL of the API", self.url))?;
        let exchange = async {
            let response = self.http.request(request).await.with_context(|| format!("ask {}", self.url))?;
            let status = response.status();
            let body = response.into_body().collect().await.context("read the answer")?.to_bytes();
            anyhow::Ok((status, body))
        };
        let (status, body) =
            timeout(REQUEST_TIMEOUT, exchange).await.context("the API does not answer")??;
        let answer: Value =
            serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into());
        if status.is_success() {
            return Ok(answer);
        }
        let title = answer["title"].as_str().unwrap_or("the API refuses");
        let detail = answer["detail"].as_str().map(|detail| format!(" ({detail})")).unwrap_or_default();
        let fields = answer["errors"].as_array().map(|errors| {
            let lines = errors.iter().map(|e| {
                format!("\n  {} {}", e["field"].as_str().unwrap_or(""), e["reason"].as_str().unwrap_or(""))
            });
            lines.collect::<String>()
        });
        bail!("{}: {title}{detail}{}", status.as_u16(), fields.unwrap_or_default())
    }
}
