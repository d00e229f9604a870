//! The admin API from a shell or a program, over HTTP or HTTPS.
//!
//! The one client of the API. `identity::jwt::fetch` fetches the keys of end users with the same TLS. The load generators
//! do without it on purpose: [`crate::rush`] and the benches decide themselves on which connection a request goes, and
//! count what becomes of it.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, IF_MATCH};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as HttpClient, Error as HttpError};
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, ClientConfig, Error as TlsError, RootCertStore};
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::config::{Access, Authorities, Secret};

/// For one request, from the connection to the last byte of the answer: longer than the API takes for any.
const API_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes of an answer, at most: a page of 200 campaigns has about 100 KB.
const ANSWER_BYTES_MAX: usize = 4 << 20;

type Http = HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// What came in place of what was asked for. It is in the errors of [`Client`].
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
        self.call(Method::PATCH, path, Some(body), version).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        version: Option<i32>,
    ) -> anyhow::Result<Value> {
        // Errors show the URL.
        ensure!(
            !self.url.contains('@'),
            "the URL of the API holds a login, which the API does not use: put the token into COUPON_TOKEN or ADMIN_TOKEN"
        );
        let mut request = Request::builder();
        if let Some(version) = version {
            request = request.header(IF_MATCH, format!("\"{version}\""));
        }
        let request = request
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(AUTHORIZATION, format!("Bearer {}", self.token.reveal()))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.map(Value::to_string).unwrap_or_default()))
            .with_context(|| format!("{} is not a URL of the API", self.url))?;
        let exchange = timeout(API_TIMEOUT, self.exchange(request)).await;
        let (status, body) = exchange
            .unwrap_or_else(|_| Err(silent(format_args!("no answer within {} s", API_TIMEOUT.as_secs()))))
            .with_context(|| format!("ask the API at {}", self.url))?;
        let answer: Value =
            serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into());
        if status.is_success() {
            return Ok(answer);
        }
        let (status, problem) = (status.as_u16(), refusal(&answer));
        let problem = match status {
            401 | 403 if !self.token_from.is_empty() => {
                format!("{problem}; the token is that of {}", self.token_from)
            }
            _ => problem,
        };
        Err(ApiError::Refused { status, problem }.into())
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        let http = self.http.get_or_try_init(async || http(&self.url, self.authorities.as_ref())).await?;
        let response = http.request(request).await.map_err(|error| explained(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| silent(format_args!("read the answer: {error}")))?;
        Ok((status, body.to_bytes()))
    }
}

/// An HTTP client for `url`. Certificate authorities are read only for HTTPS.
fn http(url: &str, authorities: Option<&Authorities>) -> anyhow::Result<Http> {
    let tls = match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("http") => trusting(RootCertStore::empty())?,
        Some("https") => tls(authorities)?,
        _ => bail!("it is not a URL that starts with http:// or https://"),
    };
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(HttpClient::builder(TokioExecutor::new()).build(connector))
}

/// TLS that trusts these authorities, or else those that the machine trusts.
pub(crate) fn tls(authorities: Option<&Authorities>) -> anyhow::Result<ClientConfig> {
    trusting(authorities.map_or_else(certificate_authorities, |authorities| Ok(roots_of(authorities)))?)
}

fn trusting(roots: RootCertStore) -> anyhow::Result<ClientConfig> {
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// The certificate authorities of a file, which was judged when it was read.
fn roots_of(authorities: &Authorities) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authorities.pem()).flatten());
    roots
}

/// The certificate authorities of `SSL_CERT_FILE` and `SSL_CERT_DIR` or, if neither is set, of the system.
fn certificate_authorities() -> anyhow::Result<RootCertStore> {
    let read = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(read.certs);
    let problems: Vec<String> = read.errors.iter().map(ToString::to_string).collect();
    ensure!(
        !roots.is_empty(),
        "no certificate authority can be read, so no server is trusted ({}): install ca-certificates, or name a PEM \
         file in SSL_CERT_FILE",
        if problems.is_empty() { "there is none".to_owned() } else { problems.join("; ") }
    );
    for problem in problems {
        tracing::warn!("a certificate authority is left out: {problem}");
    }
    Ok(roots)
}

/// Says why a request failed: what to do about TLS, or else each cause once.
fn explained(error: &HttpError) -> anyhow::Error {
    match anyhow::Chain::new(error).find_map(tls_error) {
        // The signature is bad if an authority of the same name is trusted, such as an earlier one.
        Some(TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => anyhow!(
            "its certificate comes from an authority that is not trusted here: install that authority on this machine, \
             or name the PEM file of its certificate in SSL_CERT_FILE or COUPON_CA"
        ),
        Some(TlsError::InvalidCertificate(problem)) => anyhow!("its certificate is refused: {problem}"),
        Some(TlsError::InvalidMessage(_)) => anyhow!("it does not speak TLS: its URL may start with http://"),
        _ => {
            // The first, such as `client error (Connect)`, says less than the one behind it.
            let causes = anyhow::Chain::new(error).skip(usize::from(error.source().is_some()));
            let mut told: Vec<String> = causes.map(ToString::to_string).collect();
            told.dedup();
            silent(told.join(": "))
        }
    }
}

fn silent(why: impl Display) -> anyhow::Error {
    ApiError::NoAnswer(why.to_string()).into()
}

/// The error of TLS in an error of input and output, which may be in another such error.
fn tls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    match cause.downcast_ref::<io::Error>() {
        Some(wrapper) => tls_error(wrapper.get_ref()?),
        None => cause.downcast_ref(),
    }
}

/// What an RFC 9457 problem says: its title, its detail, and a line for each field.
fn refusal(problem: &Value) -> String {
    let title = problem["title"].as_str().unwrap_or("the API refuses");
    let detail = problem["detail"].as_str().map(|detail| format!(" ({detail})")).unwrap_or_default();
    let fields = problem["errors"].as_array().into_iter().flatten().map(|error| {
        let [field, reason] = ["field", "reason"].map(|name| error[name].as_str().unwrap_or(""));
        format!("\n  {field} {reason}")
    });
    let said = format!("{title}{detail}{}", fields.collect::<String>());
    // On a terminal an answer of any server does nothing but stand there.
    said.chars().map(|letter| if letter.is_control() && letter != '\n' { ' ' } else { letter }).collect()
}
