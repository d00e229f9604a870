//! A server of key sets over HTTPS on this machine, and what trusts it.

use std::env::temp_dir;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use ulid::Ulid;

use super::signing::{AUDIENCE, ISSUER};
use crate::config::{Config, EndUsers};

/// What the server does with a request.
#[derive(Clone)]
pub(super) enum Reply {
    /// Answers these bytes, and closes the connection.
    Answer(Vec<u8>),
    /// Answers never.
    Silence,
}

impl Reply {
    pub(super) fn ok(body: &str) -> Self {
        Self::with("200 OK", "content-type: application/json", body)
    }

    pub(super) fn with(status: &str, header: &str, body: &str) -> Self {
        let length = body.len();
        Self::Answer(
            format!(
                "HTTP/1.1 {status}\r\n{header}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            )
            .into_bytes(),
        )
    }
}

pub(super) struct Server {
    port: u16,
    authority: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    reply: Mutex<Reply>,
    requests: AtomicUsize,
}

impl Server {
    pub(super) async fn start(reply: Reply) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "keys");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()])
            .unwrap()
            .signed_by(&key, &authority)
            .unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { reply: Mutex::new(reply), requests: AtomicUsize::new(0) });
        let task = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), state.clone()));
        Self { port, authority: authority.pem(), state, task }
    }

    pub(super) fn reply(&self, reply: Reply) {
        *self.state.reply.lock().unwrap() = reply;
    }

    /// The requests that have come.
    pub(super) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// The configuration of a service that reads its keys here.
    pub(super) fn users(&self) -> EndUsers {
        let file = temp_dir().join(format!("{}.pem", Ulid::generate()));
        fs::write(&file, &self.authority).unwrap();
        let users = self.configured(Some(file.to_str().unwrap()));
        fs::remove_file(&file).unwrap();
        users
    }

    /// The same, but the system's authorities are trusted.
    pub(super) fn users_without_authority(&self) -> EndUsers {
        self.configured(None)
    }

    fn configured(&self, authority: Option<&str>) -> EndUsers {
        let config = Config::read(|name| {
            let value = match name {
                "DATABASE_URL" => "postgres://db/coupon",
                "REDIS_URL" => "redis://cache",
                "NATS_URL" => "nats://bus",
                "JWT_KEYS" => return Some(format!("https://localhost:{}/jwks.json", self.port)),
                "JWT_ISSUER" => ISSUER,
                "JWT_AUDIENCE" => AUDIENCE,
                "JWT_CA" => authority?,
                _ => return None,
            };
            Some(value.to_owned())
        });
        config.unwrap().users.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        tokio::spawn(serve(client, acceptor.clone(), state.clone()));
    }
}

/// Nothing when the client leaves early.
async fn serve(client: TcpStream, acceptor: TlsAcceptor, state: Arc<State>) -> Option<()> {
    let mut client = acceptor.accept(client).await.ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    state.requests.fetch_add(1, Ordering::SeqCst);
    let reply = state.reply.lock().unwrap().clone();
    match reply {
        Reply::Answer(bytes) => {
            client.write_all(&bytes).await.ok()?;
            client.shutdown().await.ok()
        }
        Reply::Silence => client.read_u8().await.ok().map(|_| ()),
    }
}
