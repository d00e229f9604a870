//! TLS of the client: which certificate authorities it trusts, and what a failure of TLS means.

use std::error::Error;
use std::io;
use std::sync::Arc;

use anyhow::{anyhow, bail, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as HttpClient, Error as HttpError};
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, ClientConfig, Error as TlsError, RootCertStore};

use super::error::silent;
use crate::config::Authorities;

/// An HTTP client over TCP or TLS.
pub(super) type Http = HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// An HTTP client for `url`. Certificate authorities are read only for HTTPS.
pub(super) fn http(url: &str, authorities: Option<&Authorities>) -> anyhow::Result<Http> {
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
pub(super) fn explained(error: &HttpError) -> anyhow::Error {
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

/// The error of TLS in an error of input and output, which may be in another such error.
fn tls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    match cause.downcast_ref::<io::Error>() {
        Some(wrapper) => tls_error(wrapper.get_ref()?),
        None => cause.downcast_ref(),
    }
}
