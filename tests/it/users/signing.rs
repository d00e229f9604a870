//! Signs tokens of end users, for tests and benchmarks.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use time::OffsetDateTime;

pub(crate) const SECRET: &str = "a secret of more than thirty-two bytes";
pub(crate) const ISSUER: &str = "https://login.example";
pub(crate) const AUDIENCE: &str = "coupons";

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
