//! The API behind TLS: the command line reaches it if it knows the certificate authority.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_util::task::AbortOnDropHandle;

use crate::support::{TOKEN, World, coupon};

/// A proxy that speaks TLS to clients and plain HTTP to the API. It ends when it is dropped.
struct TlsProxy {
    port: u16,
    /// The PEM file of the authority that has signed its certificate.
    authority: PathBuf,
    _accepts: AbortOnDropHandle<()>,
}

impl TlsProxy {
    /// In front of a world's first API, with a certificate for `name`.
    async fn start(world: &World, name: &str) -> Self {
        let authority = authority("ours");
        let file = world.folder().join(format!("{name}.pem"));
        std::fs::write(&file, authority.pem()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepts = tokio::spawn(accept(listener, acceptor(&authority, name), world.api().address()));
        Self { port, authority: file, _accepts: AbortOnDropHandle::new(accepts) }
    }
}

/// A new certificate authority, with a key of its own.
pub(crate) fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// What speaks TLS to clients with a new certificate for `name`.
pub(crate) fn acceptor(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> TlsAcceptor {
    let (key, params) =
        (KeyPair::generate().unwrap(), CertificateParams::new(vec![name.to_owned()]).unwrap());
    let certificate = params.signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, api: SocketAddr) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A client that refuses the certificate, or leaves, ends its own connection alone.
            let Ok(mut client) = acceptor.accept(client).await else { return };
            let mut server = TcpStream::connect(api).await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

#[tokio::test]
async fn a_campaign_is_listed_over_tls() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let proxy = TlsProxy::start(&world, "localhost").await;
    let url = format!("https://localhost:{}", proxy.port);
    let trusting =
        |authority: &str| [("ADMIN_TOKEN", TOKEN.to_owned()), ("SSL_CERT_FILE", authority.to_owned())];
    let list = ["campaign", "list", "--url", &*url, "--json"];
    let finished = coupon(&list, &trusting(proxy.authority.to_str().unwrap())).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let listed: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!(listed["items"][0]["id"], campaign.to_string());

    let ours =
        [("COUPON_TOKEN", TOKEN.to_owned()), ("COUPON_CA", proxy.authority.to_str().unwrap().to_owned())];
    let finished = coupon(&list, &ours).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");

    let refused = async |url: &str, authority: &str, words: &[&str]| {
        let finished = coupon(&["campaign", "list", "--url", url], &trusting(authority)).await;
        assert_eq!((finished.code, &*finished.out), (Some(1), ""), "{finished:?}");
        for word in words {
            assert_eq!(finished.err.matches(word).count(), 1, "{word}: {finished:?}");
        }
    };
    // Another authority, one of the same name, none, the name of another host, and a server without TLS.
    let (other, cure) =
        (world.folder().join("other.pem"), "name the PEM file of its certificate in SSL_CERT_FILE");
    for name in ["theirs", "ours"] {
        std::fs::write(&other, authority(name).pem()).unwrap();
        refused(&url, other.to_str().unwrap(), &[&url, "an authority that is not trusted here", cure]).await;
    }
    refused(&url, "/nowhere.pem", &[&url, "/nowhere.pem", "name a PEM file in SSL_CERT_FILE"]).await;
    let elsewhere = format!("https://127.0.0.1:{}", proxy.port);
    refused(&elsewhere, proxy.authority.to_str().unwrap(), &["its certificate is refused", "localhost"])
        .await;
    std::fs::write(&other, authority("theirs").pem()).unwrap();
    let theirs = [("COUPON_TOKEN", TOKEN.to_owned()), ("COUPON_CA", other.to_str().unwrap().to_owned())];
    let finished = coupon(&list, &theirs).await;
    assert!(finished.code == Some(1) && finished.err.contains("not trusted here"), "{finished:?}");
    let plain = format!("https://{}", world.api().address());
    refused(&plain, proxy.authority.to_str().unwrap(), &[&plain, "does not speak TLS"]).await;
    world.close().await;
}
