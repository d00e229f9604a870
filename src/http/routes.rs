//! The table of routes. The router is made of it and of nothing else: a handler without a row does not answer.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{HeaderName, Method, header};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::api::Api;
use super::contract;
use super::extract::NoQuery;
use super::guard::{Guard, Guards};
use super::problem::Problem;
use super::route::{Access, ForUsers, Load, Route};
use super::{campaigns, claim, coupons, probes, problem_pages, users};
use crate::health::Health;
use crate::identity::{Scope, Scopes};

/// A row of the table.
struct Row {
    route: Route,
    handler: Mount,
}

/// Puts a handler behind its guard. Its state tells which processes have the route.
enum Mount {
    /// All of them.
    Everywhere(fn(Guard) -> MethodRouter<Arc<Health>>),
    /// Those with the API.
    Api(fn(Guard) -> MethodRouter<Arc<Api>>),
}

macro_rules! table {
    ($($processes:ident {$(
        $method:ident $path:literal $access:ident $(($($scope:ident)|+; $users:ident))? $load:ident $operation:ident
            $handler:path;
    )*})*) => {
        static TABLE: &[Row] = &[$($(Row {
            route: Route {
                method: Method::$method,
                path: $path,
                access: Access::$access $((Scopes::NONE$(.with(Scope::$scope))+, ForUsers::$users))?,
                load: Load::$load,
                operation: stringify!($operation),
            },
            handler: Mount::$processes(|guard| on(MethodFilter::$method, guard.before($handler))),
        },)*)*];
    };
}

// Method, path, rights and what it is to end users, load, id of the operation, handler.
table! {
    Everywhere {
        GET  "/livez"                       Public                                 Probe  live              probes::live;
        GET  "/readyz"                      Public                                 Probe  ready             probes::ready;
        GET  "/metrics"                     Public                                 Probe  metrics           probes::metrics;
        GET  "/problems"                    Public                                 Light  listProblems      problem_pages::list;
        GET  "/problems/{slug}"             Public                                 Light  showProblem       problem_pages::show;
        GET  "/openapi.json"                Public                                 Light  describeApi       describe;
    }
    Api {
        POST "/v1/campaigns"                Needs(Campaign; Nothing)               Admin  createCampaign    campaigns::create;
        GET  "/v1/campaigns"                Needs(Read|Campaign|Issue; Nothing)    Admin  listCampaigns     campaigns::list;
        GET  "/v1/campaigns/{id}"           Needs(Read|Campaign|Issue; TheirOwn)   Reads  showCampaign      campaigns::show;
        POST "/v1/campaigns/{id}/open"      Needs(Campaign; Nothing)               Admin  openCampaign      campaigns::open;
        POST "/v1/campaigns/{id}/close"     Needs(Campaign; Nothing)               Admin  closeCampaign     campaigns::close;
        POST "/v1/campaigns/{id}/coupons"   Needs(Issue; TheirOwn)                 Claims claimCoupon       claim::claim;
        GET  "/v1/coupons/{id}"             Needs(Read; TheirOwn)                  Reads  showCoupon        coupons::show;
        GET  "/v1/users/{user_id}/coupons"  Needs(Read; TheirOwn)                  Reads  listCouponsOfUser users::coupons;
    }
}

/// Every route, in the order of the table.
pub fn routes() -> impl Iterator<Item = &'static Route> {
    TABLE.iter().map(|row| &row.route)
}

/// The `OpenAPI` document, as JSON.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", contract::document(routes())));

/// The `OpenAPI` document of all routes, as JSON in several lines.
#[must_use]
pub fn openapi() -> &'static str {
    &DOCUMENT
}

/// `GET /openapi.json`
async fn describe(_: NoQuery) -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "application/json")], openapi())
}

/// The routes of a process: all of them where it has the API, else those that every process has.
pub fn router(api: Option<Api>, health: &Arc<Health>) -> Router {
    let guards = Arc::new(Guards::new(api.as_ref()));
    let api = api.map(Arc::new);
    let mut router = Router::new();
    for Row { route, handler } in TABLE {
        let guard = Guard::new(route, guards.clone());
        let methods = match (handler, &api) {
            (Mount::Everywhere(mount), _) => mount(guard).with_state(health.clone()),
            (Mount::Api(mount), Some(api)) => mount(guard).with_state(api.clone()),
            (Mount::Api(_), None) => continue,
        };
        router = router.route(route.path, methods);
    }
    router
        .fallback(async || Problem::not_found("No route has this path."))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
}
