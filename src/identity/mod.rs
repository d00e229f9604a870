//! Identities of callers: the principal that a request speaks for, and the rights that it has.
//!
//! An [`Authenticator`](authenticator::Authenticator) judges the bearer token of a request from memory. [`reader`] reads
//! the live API tokens into that memory, [`registry`] is what operators change in Postgres, and [`jwt`] verifies the
//! tokens of end users.

pub mod authenticator;
pub mod jwt;
pub mod reader;
pub mod registry;
mod scope;
mod secret;
pub mod tokens;

use std::fmt::{self, Display, Formatter};

pub use self::scope::{Scope, ScopeError, Scopes};
use crate::ids::{TokenId, UserId};

/// The party that a request speaks for, once its credentials are checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The holder of `ADMIN_TOKEN`.
    Administrator,
    /// The holder of an API token.
    Token(TokenId),
    /// An end user. They have no scopes: they see and claim what is theirs.
    User(UserId),
}

/// The name of the principal: no two have the same one.
impl Display for Principal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Administrator => f.write_str("administrator"),
            Self::Token(id) => write!(f, "token:{id}"),
            Self::User(user) => write!(f, "user:{}", user.as_str()),
        }
    }
}
