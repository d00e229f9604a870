//! The principal that a bearer token stands for: decided here and nowhere else.

use std::sync::Arc;

use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::jwt::{Refused, UserTokens};
use super::secret::Presented;
use super::tokens::{Found, Tokens};
use super::{Principal, Scopes};
use crate::config::Secret;
use crate::ids::MerchantId;

/// Judges the bearer tokens of requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authenticator {
    admin_token: Option<Secret>,
    tokens: Arc<Tokens>,
    /// Nothing where end users have no access.
    users: Option<Arc<UserTokens>>,
}

/// What a bearer token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// A valid one: the principal, its rights, and the merchant to which it is bound, if it is.
    Valid(Principal, Scopes, Option<MerchantId>),
    /// None that will ever be valid.
    Invalid,
    /// One that may be valid in a moment: [`Authenticator::news`] waits until it is known.
    Unknown(News),
    /// One that cannot be judged: the API tokens were not read for a minute, or the keys of end users not for a day.
    Unavailable,
}

/// What may make a token valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A read of the API tokens: this one may have been created a moment ago.
    Tokens,
    /// A fetch of the keys of end users: one may have been added a moment ago.
    Keys,
}

impl Authenticator {
    /// Without an admin token, API tokens and tokens of end users alone are valid; without `users`, no end user is.
    #[must_use]
    pub fn new(admin_token: Option<Secret>, tokens: Arc<Tokens>, users: Option<Arc<UserTokens>>) -> Self {
        Self { admin_token, tokens, users }
    }

    /// Judges a token from memory, without an allocation unless it is that of an end user and was not verified before.
    /// Text of three parts with dots between them is the token of an end user, unless it is the admin token.
    #[must_use]
    pub fn judge(&self, bearer: &[u8]) -> Judgement {
        if let Some(token) = Presented::parse(bearer) {
            return match self.tokens.find(&token, Instant::now()) {
                Found::Valid(id, scopes, merchant) => {
                    Judgement::Valid(Principal::Token(id), scopes, merchant)
                }
                Found::Unknown => Judgement::Unknown(News::Tokens),
                Found::Stale => Judgement::Unavailable,
            };
        }
        if is_admin_token(bearer, self.admin_token.as_ref()) {
            return Judgement::Valid(Principal::Administrator, Scopes::ALL, None);
        }
        match self.users.as_deref().zip(three_parts(bearer)) {
            Some((users, token)) => judge_user(users, token),
            None => Judgement::Invalid,
        }
    }

    /// Waits until what happened before this call is known, or could not be read in time; or returns at once if many
    /// requests wait, or if the keys of end users were fetched less than 30 s ago.
    pub async fn news(&self, news: News) {
        match (news, &self.users) {
            (News::Tokens, _) => self.tokens.news().await,
            (News::Keys, Some(users)) => users.renewed().await,
            (News::Keys, None) => {}
        }
    }
}

fn judge_user(users: &UserTokens, token: &str) -> Judgement {
    match users.verify(token) {
        Ok(user) => Judgement::Valid(Principal::User(user), Scopes::NONE, None),
        Err(Refused::UnknownKey) => Judgement::Unknown(News::Keys),
        Err(Refused::NoKeys | Refused::KeysTooOld) => Judgement::Unavailable,
        Err(_) => Judgement::Invalid,
    }
}

/// The text, if it has the form of a token of an end user.
fn three_parts(bearer: &[u8]) -> Option<&str> {
    str::from_utf8(bearer).ok().filter(|text| text.matches('.').count() == 2)
}

/// Whether a bearer token is the admin token: compared in constant time. Without an admin token none is.
#[must_use]
pub fn is_admin_token(bearer: &[u8], admin_token: Option<&Secret>) -> bool {
    admin_token.is_some_and(|token| bearer.ct_eq(token.reveal().as_bytes()).into())
}
