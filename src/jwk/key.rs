//! One key, whose algorithm is fixed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::verify;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

use super::provider;

/// Bits of the modulus of an RSA key, at least: RFC 7518, section 3.3.
const RSA_BITS_MIN: usize = 2_048;
/// Bits of the modulus of an RSA key, at most: `ring` verifies no larger one.
const RSA_BITS_MAX: usize = 8_192;
/// Bytes of a coordinate of P-256, and of a key of Ed25519.
const COORDINATE_BYTES: usize = 32;

/// A key that verifies signatures of one algorithm.
#[derive(Clone)]
pub struct Key {
    algorithm: Algorithm,
    decoding: DecodingKey,
    /// The public key itself, by which two keys are compared; nothing for a secret.
    public: Vec<u8>,
}

impl Key {
    /// A secret for HS256.
    #[must_use]
    pub fn secret(secret: &[u8]) -> Self {
        Self::new(Algorithm::HS256, DecodingKey::from_secret(secret), Vec::new())
    }

    /// The name of its algorithm, as the member `alg` of a token has it.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self.algorithm {
            Algorithm::HS256 => "HS256",
            Algorithm::RS256 => "RS256",
            Algorithm::ES256 => "ES256",
            _ => "EdDSA",
        }
    }

    /// Whether `signature`, in base64url, is a signature of `message` with this key.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &str) -> bool {
        verify(signature, message, &self.decoding, self.algorithm).unwrap_or(false)
    }

    /// An RSA key for RS256: modulus and exponent, big-endian.
    pub(super) fn rsa(n: &[u8], e: &[u8]) -> Result<Self, String> {
        // `ring` refuses leading zeros, which some issuers write.
        let (n, e) = (without_zeros(n), without_zeros(e));
        let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
        if bits < RSA_BITS_MIN {
            return Err(format!("is an RSA key of {bits} bits, fewer than {RSA_BITS_MIN}"));
        }
        if bits > RSA_BITS_MAX {
            return Err(format!("is an RSA key of {bits} bits, more than {RSA_BITS_MAX}"));
        }
        if e.is_empty() {
            return Err("is an RSA key without an exponent".to_owned());
        }
        let public = [n, e].concat();
        Ok(Self::new(Algorithm::RS256, DecodingKey::from_rsa_raw_components(n, e), public))
    }

    /// A key of P-256 for ES256: 0x04, and both coordinates.
    pub(super) fn p256(point: Vec<u8>) -> Result<Self, String> {
        if point.len() != 1 + 2 * COORDINATE_BYTES || point.first() != Some(&4) {
            return Err(format!("is no point of P-256: two coordinates of {COORDINATE_BYTES} bytes"));
        }
        Ok(Self::new(Algorithm::ES256, DecodingKey::from_ec_der(&point), point))
    }

    /// A key of Ed25519 for `EdDSA`.
    pub(super) fn ed25519(point: Vec<u8>) -> Result<Self, String> {
        if point.len() != COORDINATE_BYTES {
            return Err(format!("is no key of Ed25519: {COORDINATE_BYTES} bytes"));
        }
        Ok(Self::new(Algorithm::EdDSA, DecodingKey::from_ed_der(&point), point))
    }

    fn new(algorithm: Algorithm, decoding: DecodingKey, public: Vec<u8>) -> Self {
        // A key is the only way to a signature, so the provider is there before the first one.
        provider::install();
        Self { algorithm, decoding, public }
    }
}

impl PartialEq for Key {
    /// Two secrets are never equal.
    fn eq(&self, other: &Self) -> bool {
        !self.public.is_empty() && self.algorithm == other.algorithm && self.public == other.public
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.algorithm())
    }
}

/// A key of a JWKS, as RFC 7517 and RFC 8037 write it. Members that are not here, such as `x5c`, are ignored.
#[derive(Deserialize)]
pub(super) struct Jwk {
    kty: String,
    pub(super) kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    /// The key for signatures that this is.
    ///
    /// # Errors
    /// When it is for something else, of another kind, too weak, or malformed: the end of a sentence about it.
    pub(super) fn key(&self) -> Result<Key, String> {
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        if self.purpose.as_ref().is_some_and(|purpose| purpose != "sig")
            || self.key_ops.as_ref().is_some_and(|ops| !verifies(ops))
        {
            return Err("is not for signatures".to_owned());
        }
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Key::rsa(&decoded("n", self.n.as_ref())?, &decoded("e", self.e.as_ref())?),
            ("EC", Some("P-256")) => {
                let (x, y) = (decoded("x", self.x.as_ref())?, decoded("y", self.y.as_ref())?);
                // Of two lengths that are wrong the sum may be right.
                if x.len() != y.len() {
                    return Err("has coordinates of different lengths".to_owned());
                }
                Key::p256([&[4], &*x, &*y].concat())
            }
            ("OKP", Some("Ed25519")) => Key::ed25519(decoded("x", self.x.as_ref())?),
            ("oct", _) => Err("is a secret, which JWT_SECRET holds in place of a key set".to_owned()),
            (kind, curve) => Err(format!("is of the kind {kind} {}", curve.unwrap_or_default())),
        }?;
        match &self.alg {
            Some(alg) if alg != key.algorithm() => Err(format!("is for {alg}, not {}", key.algorithm())),
            _ => Ok(key),
        }
    }
}

fn decoded(name: &str, member: Option<&String>) -> Result<Vec<u8>, String> {
    let text = member.ok_or_else(|| format!("has no {name}"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("has a {name} that is not base64url without padding"))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
