//! A key set from its URL.

use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::header::ACCEPT;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::config::{Authorities, JWT_CA};
use crate::jwk::KeySet;
use crate::{client, tls};

/// Bytes of a key set, at most: hundreds of times what an issuer has.
const BODY_BYTES_MAX: usize = 1 << 20;

type Http = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Fetches one key set.
#[derive(Debug)]
pub(super) struct Fetcher {
    url: String,
    authorities: Option<Authorities>,
    /// For one fetch, from the connection to the last byte.
    limit: Duration,
    /// Made by the first fetch, which reads the certificate authorities.
    http: OnceCell<Http>,
}

impl Fetcher {
    pub(super) fn new(url: String, authorities: Option<Authorities>, limit: Duration) -> Self {
        Self { url, authorities, limit, http: OnceCell::new() }
    }

    /// # Errors
    /// When no key set comes within the limit; a redirect is none.
    pub(super) async fn fetch(&self) -> anyhow::Result<KeySet> {
        let limit = self.limit;
        let body = timeout(limit, self.body())
            .await
            .unwrap_or_else(|_| Err(anyhow!("no answer within {limit:?}")))?;
        KeySet::from_jwks(&body).map_err(|problem| anyhow!("what it answers {problem}"))
    }

    async fn body(&self) -> anyhow::Result<Bytes> {
        let http = self.http.get_or_try_init(async || http(self.authorities.as_ref())).await?;
        let request = Request::get(&self.url).header(ACCEPT, "application/json").body(Empty::new())?;
        let response =
            http.request(request).await.map_err(|error| tls::explained(error.into(), JWT_CA.name))?;
        let status = response.status();
        ensure!(status.as_u16() == 200, "it answers {status}, not 200");
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        Ok(body.map_err(|error| anyhow!(error)).context("read the answer")?.to_bytes())
    }
}

fn http(authorities: Option<&Authorities>) -> anyhow::Result<Http> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(client::tls(authorities)?)
        .https_only()
        .enable_http1()
        .build();
    // Between two fetches lie minutes: a connection that waits for the next one is of no use.
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}
