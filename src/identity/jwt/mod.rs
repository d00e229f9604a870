//! Users of the API, by their tokens (JWT): RFC 7519, with what RFC 8725 advises. The algorithm is a property of the key,
//! and never the choice of the token.

mod fetch;
mod members;
mod memory;
mod moment;
mod refused;
mod remote;
mod token;

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use self::memory::{Digest, Memory, Verified};
use self::moment::Moment;
pub use self::refused::Refused;
use self::remote::{Pace, Remote};
use self::token::Token;
use crate::config::{EndUsers, KeySource};
use crate::ids::UserId;
use crate::jwk::{Key, KeySet};

/// Bytes of a token, at most: the largest header that most proxies let through.
pub const TOKEN_BYTES_MAX: usize = 8 * 1_024;
/// What a key of a set may have as `alg`.
const SET_ALGORITHMS: [&str; 3] = ["RS256", "ES256", "EdDSA"];

/// Verifies tokens of users. A token of HS256 is verified by the secret alone, any other by the keys alone.
pub struct UserTokens {
    issuer: String,
    audience: String,
    secret: Option<Key>,
    keys: Keys,
    memory: Memory,
}

/// Where public keys come from.
enum Keys {
    None,
    Fixed(Arc<KeySet>),
    Remote(Box<Remote>),
}

impl UserTokens {
    /// Keys behind a URL are fetched only while [`UserTokens::run`] runs.
    #[must_use]
    pub fn new(users: &EndUsers) -> Self {
        Self::with_pace(users, Pace::SERVICE)
    }

    fn with_pace(users: &EndUsers, pace: Pace) -> Self {
        Self {
            issuer: users.issuer.clone(),
            audience: users.audience.clone(),
            secret: users.secret.as_ref().map(|secret| Key::secret(secret.reveal().as_bytes())),
            keys: match &users.keys {
                None => Keys::None,
                Some(KeySource::Set(set)) => Keys::Fixed(Arc::new(set.clone())),
                Some(KeySource::Url(url)) => {
                    Keys::Remote(Box::new(Remote::new(url.clone(), users.authorities.clone(), pace)))
                }
            },
            memory: Memory::default(),
        }
    }

    /// The user for whom a token speaks. It never waits; a token that was verified before costs no signature check.
    ///
    /// # Errors
    /// After [`Refused::UnknownKey`] the token may be verified once more, behind [`UserTokens::renewed`].
    pub fn verify(&self, token: &str) -> Result<UserId, Refused> {
        self.verify_at(token, Moment::now())
    }

    /// Fetches the keys again, if they stand behind a URL and the last fetch began at least 30 s ago, and waits for that,
    /// 2 s at most. At most 64 callers wait at a time; further ones return at once.
    pub async fn renewed(&self) {
        if let Keys::Remote(remote) = &self.keys {
            remote.renewed().await;
        }
    }

    /// Fetches keys that stand behind a URL, at once and every 10 minutes, until it is dropped.
    pub async fn run(&self) -> Infallible {
        match &self.keys {
            Keys::Remote(remote) => remote.run().await,
            Keys::None | Keys::Fixed(_) => pending().await,
        }
    }

    /// Whether the keys stand behind a URL, and no fetch has succeeded.
    #[must_use]
    pub fn lacks_keys(&self) -> bool {
        matches!(&self.keys, Keys::Remote(remote) if remote.held().is_none())
    }

    /// The time since the keys behind a URL were fetched. `None` if there is no URL, or no fetch has succeeded.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        match &self.keys {
            Keys::Remote(remote) => remote.held().map(|held| held.age(Moment::now().instant)),
            Keys::None | Keys::Fixed(_) => None,
        }
    }

    fn verify_at(&self, text: &str, now: Moment) -> Result<UserId, Refused> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Refused::TooLong);
        }
        let digest = Digest::of(text);
        let holds = |verified: &Verified| {
            !verified.claims.are_over(now.unix)
                && verified.revision.is_none_or(|revision| self.keys.revision(now) == Some(revision))
        };
        if let Some(user) = self.memory.user(&digest, holds) {
            return Ok(user);
        }
        let token = Token::parse(text)?;
        let revision = self.check_signature(&token, now)?;
        let claims = token.claims(&self.issuer, &self.audience, now.unix)?;
        let user = claims.user.clone();
        self.memory.remember(digest, Verified { claims, revision });
        Ok(user)
    }

    /// Returns the revision of the set whose key has signed; `None` for the secret.
    fn check_signature(&self, token: &Token<'_>, now: Moment) -> Result<Option<u64>, Refused> {
        let algorithm = &*token.algorithm;
        if algorithm == "HS256" {
            let secret = self.secret.as_ref().ok_or(Refused::Algorithm)?;
            return signed(secret, token).map(|()| None);
        }
        if !SET_ALGORITHMS.contains(&algorithm) {
            return Err(Refused::Algorithm);
        }
        let (set, revision) = self.keys.current(now)?;
        if set.needs_id() && token.key_id.is_none() {
            return Err(Refused::NoKeyId);
        }
        let key = set.get(token.key_id.as_deref()).ok_or(Refused::UnknownKey)?;
        if key.algorithm() != algorithm {
            return Err(Refused::Algorithm);
        }
        signed(key, token).map(|()| Some(revision))
    }
}

impl fmt::Debug for UserTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserTokens")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// The set to use now, and its revision.
    fn current(&self, now: Moment) -> Result<(Arc<KeySet>, u64), Refused> {
        match self {
            Self::None => Err(Refused::Algorithm),
            Self::Fixed(set) => Ok((set.clone(), 0)),
            Self::Remote(remote) => {
                let held = remote.held().ok_or(Refused::NoKeys)?;
                if remote.is_too_old(&held, now.instant) {
                    return Err(Refused::KeysTooOld);
                }
                Ok((held.set, held.revision))
            }
        }
    }

    /// `None` if there is no set to use now.
    fn revision(&self, now: Moment) -> Option<u64> {
        self.current(now).ok().map(|(_, revision)| revision)
    }
}

fn signed(key: &Key, token: &Token<'_>) -> Result<(), Refused> {
    if key.verifies(token.message.as_bytes(), token.signature) { Ok(()) } else { Err(Refused::Signature) }
}

#[cfg(test)]
mod tests;
