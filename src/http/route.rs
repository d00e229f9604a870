//! What a row of the table of routes says about its route.

use axum::http::Method;

use crate::identity::Scopes;

/// A route of the API.
#[derive(Debug)]
pub struct Route {
    pub method: Method,
    /// The template of the path, with parameters in braces.
    pub path: &'static str,
    pub access: Access,
    pub load: Load,
    /// The id of the operation. It never changes and no other route has it.
    pub operation: &'static str,
}

impl Route {
    /// Whether its requests have a body, and an effect: what is repeated should have an idempotency key.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.method != Method::GET
    }
}

/// What a caller needs to use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a token.
    Public,
    /// A caller with any of these rights, or an end user if the route is for them.
    Needs(Scopes, ForUsers),
}

/// What a route is to end users, who have no scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForUsers {
    /// They may not use it.
    Nothing,
    /// They may use it for themselves: the handler shows and changes what is theirs alone.
    TheirOwn,
}

/// What bounds how many requests of a route are in progress in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Nothing, nor is it limited by address: what watches over a process asks.
    Probe,
    /// Nothing: it takes no connection of the pool.
    Light,
    /// [`POOL_REQUESTS_MAX`](super::POOL_REQUESTS_MAX), together with all other routes of this kind: each request takes
    /// a connection of the pool.
    Admin,
    /// The same number of requests: one statement answers many of them.
    Reads,
    /// The issuer, shard by shard.
    Claims,
}
