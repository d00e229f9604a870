//! The API as a client sees it: every answer is an answer, refusals too.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{TOKEN, contract};

const LIMIT: Duration = Duration::from_secs(30);

/// One process of the API.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    address: SocketAddr,
    token: Option<String>,
    headers: Vec<(&'static str, &'static str)>,
    /// Whether every answer must be as the `OpenAPI` document of this program says.
    is_described: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Null when it is not JSON.
    pub(crate) body: Value,
    pub(crate) text: String,
    pub(crate) took: Duration,
}

impl Http {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let headers = vec![("content-type", "application/json")];
        Self { address, token: Some(TOKEN.to_owned()), headers, is_described: true }
    }

    /// The same API, of a program that has another document.
    pub(crate) fn of_another_version(self) -> Self {
        Self { is_described: false, ..self }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same API, asked with another token or with none.
    pub(crate) fn with_token(&self, token: Option<&str>) -> Self {
        Self { token: token.map(str::to_owned), ..self.clone() }
    }

    /// The same API, asked with a further header.
    pub(crate) fn with(&self, header: &'static str, value: &'static str) -> Self {
        let headers = [&*self.headers, &[(header, value)]].concat();
        Self { headers, ..self.clone() }
    }

    /// The same API, asked with a header in place of the one that it would be asked with.
    pub(crate) fn instead(&self, header: &'static str, value: &'static str) -> Self {
        let headers = self.headers.iter().filter(|(name, _)| *name != header).copied();
        Self { headers: headers.chain([(header, value)]).collect(), ..self.clone() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, body.to_string()).await
    }

    /// Nothing when nobody answers.
    pub(crate) async fn try_get(&self, path: &str) -> Option<Answer> {
        self.try_send(Method::GET, path, "").await
    }

    pub(crate) async fn try_post(&self, path: &str, body: &Value) -> Option<Answer> {
        self.try_send(Method::POST, path, body.to_string()).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let answer = self.try_send(method.clone(), path, body).await;
        answer.unwrap_or_else(|| panic!("{method} {path}: no answer from {}", self.address))
    }

    /// On a connection of its own, so that no test depends on the fate of another's.
    pub(crate) async fn try_send(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Option<Answer> {
        let mut request =
            Request::builder().method(method.clone()).uri(path).header(HOST, self.address.to_string());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in &self.headers {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let answer = timeout(LIMIT, self.exchange(request)).await.ok()?.ok()?;
        if self.is_described {
            contract::assert_described_if_known(&method, path, &answer);
        }
        Some(answer)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let asked = Instant::now();
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
            text: String::from_utf8_lossy(&body).into_owned(),
            took: asked.elapsed(),
        })
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The slug of a problem.
    pub(crate) fn problem(&self) -> &str {
        self.body["type"].as_str().and_then(|path| path.strip_prefix("/problems/")).unwrap_or_default()
    }
}
