//! A login service: it signs tokens of end users, and publishes its keys over HTTPS.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::support::World;
use crate::tls::{acceptor, authority};

pub(crate) const SECRET: &str = "a secret of more than thirty-two bytes";
const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "coupons";

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

/// A token for a user that expires after these seconds, by the secret.
pub(crate) fn by_secret(user: &str, seconds: i64) -> String {
    let message = message(&json!({ "alg": "HS256" }), &claims(user, seconds));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// What a token says of a user.
pub(crate) fn claims(user: &str, seconds: i64) -> Value {
    let expires = OffsetDateTime::now_utc().unix_timestamp() + seconds;
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": user, "exp": expires })
}

fn message(header: &Value, claims: &Value) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    format!("{header}.{claims}")
}

/// A key of P-256.
pub(crate) struct Key {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    /// A new one.
    pub(crate) fn new(id: &'static str) -> Self {
        let (form, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pair = EcdsaKeyPair::generate_pkcs8(form, &random).unwrap();
        Self { id, pair: EcdsaKeyPair::from_pkcs8(form, pair.as_ref(), &random).unwrap() }
    }

    /// The key set of this key alone.
    pub(crate) fn jwks(&self) -> String {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
        json!({ "keys": [{ "kty": "EC", "kid": self.id, "crv": "P-256", "x": x, "y": y }] }).to_string()
    }

    /// A token for a user, which expires in an hour.
    pub(crate) fn token(&self, user: &str) -> String {
        self.signed(&claims(user, 3_600))
    }

    pub(crate) fn signed(&self, claims: &Value) -> String {
        let message = message(&json!({ "alg": "ES256", "kid": self.id }), claims);
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
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
