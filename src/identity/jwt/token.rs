//! A token, taken apart: RFC 7515, section 7.1, and RFC 7519. Nothing of it is true before its signature is verified.

use serde::Deserialize;

use super::members::{Members, decoded};
use super::refused::Refused;
use crate::ids::UserId;

/// Seconds by which the clocks of issuer and service may differ.
const LEEWAY_SECONDS: f64 = 30.0;
/// What `typ` may be, in any case and with `application/` before it: RFC 7519, section 5.1, and RFC 9068.
const TYPES: [&str; 2] = ["jwt", "at+jwt"];

/// A token whose header is checked.
pub(super) struct Token<'a> {
    pub(super) algorithm: String,
    pub(super) key_id: Option<String>,
    /// Header and claims as they were signed.
    pub(super) message: &'a str,
    pub(super) signature: &'a str,
    claims: &'a str,
}

/// What is kept of a token.
pub(super) struct Claims {
    pub(super) user: UserId,
    /// `exp`, in seconds since 1970.
    expires: f64,
}

impl<'a> Token<'a> {
    /// Members of the header that name or hold a key (`jku`, `jwk`, `x5u`, `x5c`) are ignored.
    pub(super) fn parse(text: &'a str) -> Result<Self, Refused> {
        let (message, signature) = text.rsplit_once('.').ok_or(Refused::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(Refused::Malformed)?;
        if claims.contains('.') {
            return Err(Refused::Malformed);
        }
        let json = decoded(header)?;
        let header = Members::parse(&json)?;
        if ["crit", "b64", "cty"].iter().any(|name| header.has(name)) {
            return Err(Refused::Extension);
        }
        if header.optional::<String>("typ")?.is_some_and(|kind| !is_jwt(&kind)) {
            return Err(Refused::Type);
        }
        let (algorithm, key_id) = (header.required("alg")?, header.optional("kid")?);
        Ok(Self { algorithm, key_id, message, signature, claims })
    }

    /// The claims, for a token whose signature is verified, at `now` in seconds since 1970.
    pub(super) fn claims(&self, issuer: &str, audience: &str, now: f64) -> Result<Claims, Refused> {
        let json = decoded(self.claims)?;
        let claims = Members::parse(&json)?;
        let (expires, begins) = (claims.required("exp")?, claims.optional::<f64>("nbf")?);
        let (from, to) = (claims.required::<String>("iss")?, claims.required::<Audience>("aud")?);
        let subject: String = claims.required("sub")?;
        if is_over(expires, now) {
            return Err(Refused::Expired);
        }
        if begins.is_some_and(|begins| now < begins - LEEWAY_SECONDS) {
            return Err(Refused::NotYetValid);
        }
        if from != issuer {
            return Err(Refused::Issuer);
        }
        if !to.holds(audience) {
            return Err(Refused::Audience);
        }
        let user = UserId::parse(subject).map_err(|_| Refused::Subject)?;
        Ok(Claims { user, expires })
    }
}

impl Claims {
    /// Whether the token has expired at `now`, in seconds since 1970.
    pub(super) fn are_over(&self, now: f64) -> bool {
        is_over(self.expires, now)
    }
}

/// One audience or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn holds(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}

fn is_over(expires: f64, now: f64) -> bool {
    now >= expires + LEEWAY_SECONDS
}

fn is_jwt(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    TYPES.contains(&kind.strip_prefix("application/").unwrap_or(&kind))
}
