//! The table of routes. The router is made of it and of nothing else: a handler without a row does not answer.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{HeaderName, Method, header};
use axum::routing::{MethodFilter, MethodRouter, on};

use serde_json::Value;

use super::api::Api;
use super::contract;
use super::extract::NoQuery;
use super::guard::{Guard, Guards};
use super::pages::{self, Document};
use super::problem::Problem;
use super::route::{Access, ForUsers, Load, Route};
use super::{campaigns, changes, claim, coupons, probes, users};
use crate::asyncapi::asyncapi;
use crate::health::Health;
use crate::identity::{Scope, Scopes};

/// A row of the table.
struct Row {
    route: Route,
    handler: Mount,
}

/// Puts a handler behind its guard. Its state tells which processes have the route.
enum Mount {
    /// All of them, also while they start.
    Always(fn(Guard) -> MethodRouter),
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
    Always {
        GET  "/livez"                       Public                                 Probe  live              probes::live;
        GET  "/docs"                        Public                                 Light  showDocs          docs;
        GET  "/problems"                    Public                                 Light  listProblems      pages::problems::list;
        GET  "/problems/{slug}"             Public                                 Light  showProblem       pages::problems::show;
        GET  "/openapi.json"                Public                                 Light  describeApi       describe_api;
        GET  "/asyncapi.json"               Public                                 Light  describeEvents    describe_events;
    }
    Everywhere {
        GET  "/readyz"                      Public                                 Probe  ready             probes::ready;
        GET  "/metrics"                     Public                                 Probe  metrics           probes::metrics;
    }
    Api {
        POST "/v1/campaigns"                Needs(Campaign; Nothing)               Admin  createCampaign    campaigns::create;
        GET  "/v1/campaigns"                Needs(Read|Campaign|Issue; Nothing)    Admin  listCampaigns     campaigns::list;
        GET  "/v1/campaigns/{id}"           Needs(Read|Campaign|Issue; TheirOwn)   Reads  showCampaign      campaigns::show;
        PATCH "/v1/campaigns/{id}"          Needs(Campaign; Nothing)               Admin  editCampaign      campaigns::edit;
        POST "/v1/campaigns/{id}/open"      Needs(Campaign; Nothing)               Admin  openCampaign      campaigns::open;
        POST "/v1/campaigns/{id}/pause"     Needs(Campaign; Nothing)               Admin  pauseCampaign     campaigns::pause;
        POST "/v1/campaigns/{id}/close"     Needs(Campaign; Nothing)               Admin  closeCampaign     campaigns::close;
        GET  "/v1/campaigns/{id}/changes"   Needs(Read|Campaign; Nothing)          Admin  listChanges       campaigns::changes;
        POST "/v1/campaigns/{id}/sync"      Needs(Campaign; Nothing)               Admin  syncCampaign      campaigns::sync;
        POST "/v1/campaigns/{id}/coupons"   Needs(Issue; TheirOwn)                 Claims claimCoupon       claim::claim;
        GET  "/v1/coupons"                  Needs(Read; Nothing)                   Reads  findCoupon        coupons::find;
        GET  "/v1/coupons/{id}"             Needs(Read; TheirOwn)                  Reads  showCoupon        coupons::show;
        GET  "/v1/coupons/{id}/changes"     Needs(Read|Redeem; Nothing)            Admin  listCouponChanges changes::changes;
        POST "/v1/coupons/{id}/redeem"      Needs(Redeem; Nothing)                 Claims redeemCoupon      changes::redeem;
        POST "/v1/coupons/{id}/restore"     Needs(Redeem; Nothing)                 Claims restoreCoupon     changes::restore;
        POST "/v1/coupons/{id}/cancel"      Needs(Redeem|Campaign; TheirOwn)       Claims cancelCoupon      changes::cancel;
        POST "/v1/redemptions"              Needs(Redeem; Nothing)                 Claims redeemCode        changes::redeem_by_code;
        GET  "/v1/users/{user_id}/coupons"  Needs(Read; TheirOwn)                  Reads  listCouponsOfUser users::coupons;
    }
}

/// Every route, in the order of the table.
pub fn routes() -> impl Iterator<Item = &'static Route> {
    TABLE.iter().map(|row| &row.route)
}

/// The `OpenAPI` document.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| contract::document(routes()));
/// The same as JSON.
static DOCUMENT_TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", *DOCUMENT));
/// The page about it.
static DOCS: LazyLock<Document> = LazyLock::new(|| pages::docs::page(&DOCUMENT, routes()));

/// The `OpenAPI` document of all routes, as JSON in several lines.
#[must_use]
pub fn openapi() -> &'static str {
    &DOCUMENT_TEXT
}

/// A document of JSON.
type Json = ([(HeaderName, &'static str); 1], &'static str);

fn json(text: &'static str) -> Json {
    ([(header::CONTENT_TYPE, "application/json")], text)
}

/// `GET /openapi.json`
async fn describe_api(_: NoQuery) -> Json {
    json(openapi())
}

/// `GET /asyncapi.json`
async fn describe_events(_: NoQuery) -> Json {
    json(asyncapi())
}

/// `GET /docs`
async fn docs(_: NoQuery) -> Document {
    DOCS.clone()
}

/// The routes of a process: all of them where it has the API, else those that every process has.
pub fn router(api: Option<Api>, health: &Arc<Health>) -> Router {
    let guards = Arc::new(Guards::new(api.as_ref()));
    let api = api.map(Arc::new);
    routed(&guards, |handler, guard| match (handler, &api) {
        (Mount::Always(mount), _) => Some(mount(guard)),
        (Mount::Everywhere(mount), _) => Some(mount(guard).with_state(health.clone())),
        (Mount::Api(mount), Some(api)) => Some(mount(guard).with_state(api.clone())),
        (Mount::Api(_), None) => None,
    })
    .fallback(async || Problem::not_found("No route has this path."))
}

/// The routes of a process that waits for Postgres and has not begun to serve: those that need no server.
pub(super) fn always() -> Router {
    let guards = Arc::new(Guards::new(None));
    routed(&guards, |handler, guard| match handler {
        Mount::Always(mount) => Some(mount(guard)),
        Mount::Everywhere(_) | Mount::Api(_) => None,
    })
}

/// The routes that `mounted` gives a handler.
fn routed(guards: &Arc<Guards>, mounted: impl Fn(&Mount, Guard) -> Option<MethodRouter>) -> Router {
    let rows = TABLE.iter().filter_map(|Row { route, handler }| {
        Some((route.path, mounted(handler, Guard::new(route, guards.clone()))?))
    });
    rows.fold(Router::new(), |router, (path, methods)| router.route(path, methods))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
}
