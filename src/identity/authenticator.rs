//! The principal that a bearer token stands for: decided here and nowhere else.

use std::sync::Arc;

use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::secret::Presented;
use super::tokens::{Found, Tokens};
use super::{Principal, Scopes};
use crate::config::Secret;

/// Judges the bearer tokens of requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authenticator {
    admin_token: Option<Secret>,
    tokens: Arc<Tokens>,
}

/// What a bearer token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// A valid one: the principal, and its rights.
    Valid(Principal, Scopes),
    /// None that will ever be valid.
    Invalid,
    /// One that may have been created a moment ago: [`Authenticator::news`] waits until it is known.
    Unknown,
    /// An API token that cannot be judged, because the tokens were not read for a minute.
    Unavailable,
}

impl Authenticator {
    /// Without an admin token, API tokens alone are valid.
    #[must_use]
    pub fn new(admin_token: Option<Secret>, tokens: Arc<Tokens>) -> Self {
        Self { admin_token, tokens }
    }

    /// Judges a token from memory, without an allocation. Text that is not that of an API token is compared with the
    /// admin token.
    #[must_use]
    pub fn judge(&self, bearer: &[u8]) -> Judgement {
        let Some(token) = Presented::parse(bearer) else {
            return if is_admin_token(bearer, self.admin_token.as_ref()) {
                Judgement::Valid(Principal::Administrator, Scopes::ALL)
            } else {
                Judgement::Invalid
            };
        };
        match self.tokens.find(&token, Instant::now()) {
            Found::Valid(id, scopes) => Judgement::Valid(Principal::Token(id), scopes),
            Found::Unknown => Judgement::Unknown,
            Found::Stale => Judgement::Unavailable,
        }
    }

    /// Waits until what happened before this call is known, or could not be read in time; or returns at once if many
    /// requests wait.
    pub async fn news(&self) {
        self.tokens.news().await;
    }
}

/// Whether a bearer token is the admin token: compared in constant time. Without an admin token none is.
#[must_use]
pub fn is_admin_token(bearer: &[u8], admin_token: Option<&Secret>) -> bool {
    admin_token.is_some_and(|token| bearer.ct_eq(token.reveal().as_bytes()).into())
}
