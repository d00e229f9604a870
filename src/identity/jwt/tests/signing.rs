//! Issues tokens, with the private keys of RFC 7515, appendix A, and RFC 8037, appendix A, which are no secrets.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RsaKeyPair,
};

use crate::config::{EndUsers, KeySource, Secret};
use crate::identity::jwt::UserTokens;
use crate::identity::jwt::moment::Moment;
use crate::jwk::KeySet;

/// The time of the tests, in seconds since 1970.
pub(super) const NOW: f64 = 1_700_000_000.0;
pub(super) const ISSUER: &str = "https://login.example";
pub(super) const AUDIENCE: &str = "coupons";
/// The members of good claims, as JSON.
pub(super) const CLAIMS: [(&str, &str); 4] = [
    ("iss", r#""https://login.example""#),
    ("aud", r#""coupons""#),
    ("sub", r#""alice""#),
    ("exp", "1700000600"),
];
pub(super) const SECRET: &str = "a secret of more than thirty-two bytes";

/// RFC 7515, appendix A.2.
pub(super) const N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const D: &str = "Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui395IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ";
const P: &str = "4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDcmnPGBY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc";
const Q: &str = "uQPEfgmVtjL0Uyyx88GZFF1fOunH3-7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeLQeZD_YwD66t62wDmpe_HlB-TnBA-njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdc";
const DP: &str = "BwKfV3Akq5_MFZDFZCnW-wzl-CCo83WoZvnLQwCTeDv8uzluRSnm71I3QCLdhrqE2e9YkxvuxdBfpT_PI7Yz-FOKnu1R6HsJeDCjn12Sk3vmAktV2zb34MCdy7cpdTh_YVr7tss2u6vneTwrA86rZtu5Mbr1C1XsmvkxHQAdYo0";
const DQ: &str = "h_96-mK1R_7glhsum81dZxjTnYynPbZpHziZjeeHcXYsXaaMwkOlODsWa7I9xXDoRwbKgB719rrmI2oKr6N3Do9U0ajaHF-NKJnwgjMd2w9cjz3_-kyNlxAr2v4IKhGNpmM5iIgOS1VZnOZ68m6_pbLBSp3nssTdlqvd0tIiTHU";
const QI: &str = "IYd7DHOhrWvxkwPQsRM2tOgrjbcrfvtQJipd-DlcxyVuuM9sQLdgjVk2oy26F0EmpScGLq2MowX7fhd_QJQ3ydy5cY7YIBi87w93IKLEdfnbJtoOPLUW0ITrJReOgo1cq9SbsxYawBgfp_gh6A5603k2-ZQwVK0JKSHuLFkuQ3U";
/// RFC 7515, appendix A.3.
pub(super) const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
pub(super) const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
const EC_D: &str = "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI";
/// RFC 8037, appendix A.1.
pub(super) const ED_X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const ED_D: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";

pub(super) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn bytes(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// The JWK of each key: `r` is RSA, `e` is P-256, `d` is Ed25519.
pub(super) fn jwks() -> String {
    let rsa = format!(r#"{{"kty":"RSA","kid":"r","use":"sig","alg":"RS256","n":"{N}","e":"AQAB"}}"#);
    let ec = format!(r#"{{"kty":"EC","kid":"e","crv":"P-256","x":"{X}","y":"{Y}"}}"#);
    let ed = format!(r#"{{"kty":"OKP","kid":"d","crv":"Ed25519","x":"{ED_X}"}}"#);
    format!(r#"{{"keys":[{rsa},{ec},{ed}]}}"#)
}

/// What trusts the keys of a JWKS, and the secret if `secret` is set.
pub(super) fn tokens_of(jwks: &str, secret: Option<&str>) -> UserTokens {
    UserTokens::new(&EndUsers {
        keys: Some(KeySource::Set(KeySet::parse(jwks.as_bytes()).unwrap())),
        secret: secret.map(|secret| Secret::from(secret.to_owned())),
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        authorities: None,
    })
}

/// What trusts all three keys and the secret.
pub(super) fn tokens() -> UserTokens {
    tokens_of(&jwks(), Some(SECRET))
}

/// Some seconds after [`NOW`].
pub(super) fn after(seconds: u32) -> Moment {
    let later = Duration::from_secs(seconds.into());
    Moment { unix: NOW + f64::from(seconds), instant: Moment::now().instant + later }
}

/// [`CLAIMS`], with these in place of theirs or behind them; without those that are empty.
pub(super) fn claims(changes: &[(&str, &str)]) -> String {
    let is_replaced = |name: &str| changes.iter().any(|(other, _)| *other == name);
    let kept = CLAIMS.iter().filter(|(name, _)| !is_replaced(name));
    let all = kept.chain(changes).filter(|(_, value)| !value.is_empty());
    let members: Vec<_> = all.map(|(name, value)| format!("{name:?}:{value}")).collect();
    format!("{{{}}}", members.join(","))
}

pub(super) enum Signer {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl Signer {
    pub(super) fn rsa() -> Self {
        let public_key = PublicKeyComponents { n: bytes(N), e: vec![1, 0, 1] };
        let [d, p, q, dp, dq, q_inv] = [D, P, Q, DP, DQ, QI].map(bytes);
        let components = KeyPairComponents { public_key, d, p, q, dP: dp, dQ: dq, qInv: q_inv };
        Self::Rsa(RsaKeyPair::from_components(&components).unwrap())
    }

    pub(super) fn ec() -> Self {
        Self::ec_as(&ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    /// The key of P-256, for signatures in another form.
    pub(super) fn ec_as(form: &'static EcdsaSigningAlgorithm) -> Self {
        let public = [&[4], &*bytes(X), &*bytes(Y)].concat();
        let key =
            EcdsaKeyPair::from_private_key_and_public_key(form, &bytes(EC_D), &public, &SystemRandom::new());
        Self::Ec(key.unwrap())
    }

    /// A new key of a curve.
    pub(super) fn new_ec(form: &'static EcdsaSigningAlgorithm) -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(form, &random).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(form, key.as_ref(), &random).unwrap())
    }

    pub(super) fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::from_seed_unchecked(&bytes(ED_D)).unwrap())
    }

    pub(super) fn secret() -> Self {
        Self::Secret(SECRET.as_bytes().to_vec())
    }

    /// A JWKS of this key of P-256 alone.
    pub(super) fn jwks(&self, kid: &str) -> String {
        let Self::Ec(key) = self else { panic!("it is no key of P-256") };
        let (x, y) = key.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (base64url(x), base64url(y));
        format!(r#"{{"keys":[{{"kty":"EC","kid":{kid:?},"crv":"P-256","x":"{x}","y":"{y}"}}]}}"#)
    }

    /// A token of this header and these claims.
    pub(super) fn token(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64url(header), base64url(claims));
        let signature = base64url(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Secret(key) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
            }
        }
    }
}
