//! The API over HTTP. A request is accepted by the [`server`], finds its row in the table of routes, passes the
//! guard of the route, and reaches a handler; there is one file of handlers for each resource.
//!
//! Status codes stand in `problem_kind` (refusals) and `answer` (everything else), and nowhere else.

mod routes;

mod campaigns;
mod changes;
mod claim;
mod coupons;
mod pages;
mod probes;
mod starting;
mod users;

mod answer;
mod api;
mod contract;
mod extract;
mod guard;

mod address;
mod caller;
mod exceeded;
mod failure;
mod framing;
mod problem;
mod problem_kind;
mod request_id;
mod route;

pub mod server;

pub use self::api::Api;
pub use self::guard::POOL_REQUESTS_MAX;
pub use self::route::{Access, ForUsers, Load, Route};
pub use self::routes::{openapi, router, routes};
pub use self::starting::starting;

/// Parsers, public only for fuzz targets and tests.
#[doc(hidden)]
pub mod parsers {
    pub use axum::http::Uri;

    pub use super::caller::is_authorized;
    pub use super::claim::claimant;
    pub use super::extract::ListQuery;
}
