//! A login service that publishes its keys over HTTPS, and processes that take its tokens.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::signing::{AUDIENCE, ISSUER, SECRET};
use crate::support::World;
use crate::tls::{acceptor, authority};

impl World {
    /// From now on processes take end users of this issuer; the tokens are signed with the secret, or with the keys in
    /// a file or behind a URL.
    pub(crate) fn admits_users(&mut self, keys: Option<String>) {
        self.set("JWT_ISSUER", ISSUER);
        self.set("JWT_AUDIENCE", AUDIENCE);
        self.set("JWT_SECRET", SECRET);
        if let Some(keys) = keys {
            self.set("JWT_KEYS", keys);
        }
    }
}

/// A server of one key set. It ends when it is dropped.
pub(crate) struct KeyServer {
    pub(crate) url: String,
    /// The PEM file of the authority that has signed its certificate.
    pub(crate) authority: PathBuf,
    state: Arc<Mutex<State>>,
    _accepts: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct State {
    /// Without one every connection is closed at once.
    published: Option<String>,
    connections: usize,
}

impl KeyServer {
    pub(crate) async fn start(world: &World) -> Self {
        let authority = authority("login");
        let acceptor = acceptor(&authority, "localhost");
        let file = world.folder().join("login.pem");
        std::fs::write(&file, authority.pem()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/jwks.json", listener.local_addr().unwrap().port());
        let state = Arc::<Mutex<State>>::default();
        let accepts = tokio::spawn(accept(listener, acceptor, state.clone()));
        Self { url, authority: file, state, _accepts: AbortOnDropHandle::new(accepts) }
    }

    /// From now on it answers this set.
    pub(crate) fn publish(&self, jwks: String) {
        self.state.lock().unwrap().published = Some(jwks);
    }

    /// From now on it closes every connection.
    pub(crate) fn fail(&self) {
        self.state.lock().unwrap().published = None;
    }

    /// The connections that have come.
    pub(crate) fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let published = {
            let mut state = state.lock().unwrap();
            state.connections += 1;
            state.published.clone()
        };
        if let Some(jwks) = published {
            tokio::spawn(answer(client, acceptor.clone(), jwks));
        }
    }
}

/// Nothing when the client leaves early.
async fn answer(client: TcpStream, acceptor: TlsAcceptor, jwks: String) -> Option<()> {
    let mut client = acceptor.accept(client).await.ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let length = jwks.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{jwks}");
    client.write_all(answer.as_bytes()).await.ok()?;
    client.shutdown().await.ok()
}
