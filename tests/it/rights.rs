//! The table of routes: who may use which, called one by one. A new row is covered by itself.

use std::collections::HashSet;

use coupon_dispatcher::http::{Access, Route, routes};
use hyper::Method;
use serde_json::json;

use crate::support::contract::assert_described;
use crate::support::{Answer, Http, SOON, TOKEN, World, wait_until};
use crate::users::signing::by_secret;

/// A row of [`RIGHTS`]: the operation of a route; the scopes that it takes, none where everybody may use it; and what it
/// answers to an end user about what is theirs and what is another's, if it is for end users.
type Row = (&'static str, &'static [&'static str], Option<(u16, u16)>);

const RIGHTS: [Row; 26] = [
    ("live", &[], None),
    ("showDocs", &[], None),
    ("listProblems", &[], None),
    ("showProblem", &[], None),
    ("describeApi", &[], None),
    ("describeEvents", &[], None),
    ("ready", &[], None),
    ("metrics", &[], None),
    ("createCampaign", &["admin", "campaign"], None),
    ("listCampaigns", &["admin", "campaign", "issue", "read"], None),
    ("showCampaign", &["admin", "campaign", "issue", "read"], Some((200, 200))),
    ("editCampaign", &["admin", "campaign"], None),
    ("openCampaign", &["admin", "campaign"], None),
    ("pauseCampaign", &["admin", "campaign"], None),
    ("closeCampaign", &["admin", "campaign"], None),
    ("listChanges", &["admin", "campaign", "read"], None),
    ("syncCampaign", &["admin", "campaign"], None),
    // 409: the user has got the coupon before.
    ("claimCoupon", &["admin", "issue"], Some((409, 403))),
    ("findCoupon", &["admin", "read"], None),
    ("showCoupon", &["admin", "read"], Some((200, 404))),
    ("listCouponChanges", &["admin", "read", "redeem"], None),
    ("redeemCoupon", &["admin", "redeem"], None),
    ("restoreCoupon", &["admin", "redeem"], None),
    // 409: the administrator has cancelled the coupon before.
    ("cancelCoupon", &["admin", "campaign", "redeem"], Some((409, 404))),
    ("redeemCode", &["admin", "redeem"], None),
    ("listCouponsOfUser", &["admin", "read"], Some((200, 404))),
];
const SCOPES: [&str; 6] = ["admin", "campaign", "issue", "redeem", "read", "settle"];

/// What a caller is.
#[derive(Clone, Copy)]
enum Who {
    /// Nobody who is known.
    Nobody,
    /// A caller with this scope.
    Holds(&'static str),
    /// The user of [`call`].
    Alice,
    /// Another user.
    Bob,
}

/// Calls a route, with something that exists for each parameter of its path.
async fn call(api: &Http, method: &Method, route: &Route, id: &str) -> Answer {
    let parts = route.path.split('/').map(|part| match part {
        "{id}" => id,
        "{user_id}" => "alice",
        "{slug}" => "not-found",
        part => {
            assert!(!part.contains('{'), "say here what to put into {part} of {}", route.path);
            part
        }
    });
    let path = parts.collect::<Vec<_>>().join("/");
    let body = if route.operation == "cancelCoupon" { "" } else { r#"{"user_id":"alice"}"# };
    let answer = api.send(method.clone(), &path, body).await;
    if method == route.method {
        assert_described(method.as_str(), route.path, &answer);
    }
    answer
}

/// Starts a process that answers 401, however many tokens are wrong.
async fn unlimited(world: &mut World) {
    world.set("FAILED_LOGIN_LIMIT", "off");
    world.migrate().await;
    world.add_process("").await;
}

#[tokio::test]
async fn every_route_is_open_to_those_who_have_the_right_and_to_nobody_else() {
    let mut world = World::bare(1).await;
    unlimited(&mut world).await;
    let tokens =
        [None, Some(""), Some("a-token-for-tests-onlY"), Some("a-token-for-tests-only2"), Some(TOKEN)];
    for route in routes() {
        let id = world.open_campaign(json!({})).await.to_string(); // one that no other route has closed
        for token in tokens {
            let api = world.api().with_token(token);
            let answer = call(&api, &route.method, route, &id).await;
            let what = format!("{} {} with {token:?}: {answer:?}", route.method, route.path);
            match route.access {
                Access::Public => assert_eq!(answer.status, 200, "{what}"),
                Access::Needs(..) if token == Some(TOKEN) => {
                    // It has passed the guard: what the handler says of this id or body is another matter.
                    assert!([200, 201, 404, 409, 422].contains(&answer.status), "{what}");
                    assert_ne!(answer.body["detail"], "No route has this path.", "{what}");
                }
                Access::Needs(..) => {
                    assert_eq!((answer.status, answer.problem()), (401, "unauthorized"), "{what}");
                    assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{what}");
                    // A route that can be read can be read by its header alone.
                    if route.method == Method::GET {
                        assert_eq!(call(&api, &Method::HEAD, route, &id).await.status, 401, "{what}");
                    }
                }
            }
        }
    }
    let coupons: i64 =
        sqlx::query_scalar("SELECT count(*) FROM coupons").fetch_one(&world.pool).await.unwrap();
    assert_eq!(coupons, 1, "that of the one claim with the token");
    world.close().await;
}

/// Every kind of caller: a word for it, its token, and what it is.
async fn callers(world: &World) -> Vec<(&'static str, Option<String>, Who)> {
    let admin = ("admin token", Some(TOKEN.to_owned()), Who::Holds("admin"));
    let mut callers = vec![("nobody", None, Who::Nobody), admin];
    for scope in SCOPES {
        callers.push((scope, Some(world.token(&["--scope", scope]).await), Who::Holds(scope)));
    }
    callers.push(("user", Some(by_secret("alice", 3_600)), Who::Alice));
    callers.push(("another user", Some(by_secret("bob", 3_600)), Who::Bob));
    let revoked = world.token(&["--scope", "admin"]).await;
    let id = revoked.split('_').nth(1).unwrap();
    assert_eq!(world.coupon(&["token", "revoke", id, "--yes"]).await.code, Some(0));
    let expired = world.token(&["--scope", "admin", "--expires-in", "PT1S"]).await;
    let foreign = format!("cd_01ARZ3NDEKTSV4RRFFQ69G5FAV_{}", "0123456789abcdef".repeat(4));
    let cut = callers[2].1.as_ref().map(|token| token[..token.len() - 1].to_owned()).unwrap();
    for (kind, token) in [
        ("garbage", "§{}' OR 1=1".to_owned()),
        ("revoked", revoked),
        ("expired", expired),
        ("of another deployment", foreign),
        ("cut off", cut),
        ("expired user", by_secret("alice", -31)),
    ] {
        let api = world.api().with_token(Some(&token));
        wait_until(kind, SOON, async || api.get("/v1/campaigns").await.status != 200).await;
        callers.push((kind, Some(token), Who::Nobody));
    }
    callers
}

#[tokio::test]
async fn every_route_answers_every_kind_of_caller_as_the_table_says() {
    let mut world = World::bare(1).await;
    world.admits_users(None);
    unlimited(&mut world).await;
    let callers = callers(&world).await;
    for route in routes() {
        let campaign = world.open_campaign(json!({})).await; // one that no other route has closed
        let coupon = world.claim(campaign, "alice").await.body["id"].clone();
        let id = match route.operation {
            "showCoupon" | "cancelCoupon" => coupon.as_str().unwrap().to_owned(),
            _ => campaign.to_string(),
        };
        let row = RIGHTS.iter().find(|(operation, ..)| *operation == route.operation);
        let (_, scopes, users) = row.unwrap_or_else(|| panic!("RIGHTS has no row of {}", route.operation));
        for (kind, token, who) in &callers {
            let api = world.api().with_token(token.as_deref());
            let answer = call(&api, &route.method, route, &id).await;
            let what = format!("{} {} as {kind}: {answer:?}", route.method, route.path);
            let passed: (&[u16], _) = (&[200, 201, 404, 409, 422], answer.problem());
            let (expected, problem) = match (who, users) {
                _ if scopes.is_empty() => (&[200][..], ""),
                (Who::Nobody, _) => (&[401][..], "unauthorized"),
                (Who::Holds(scope), _) if !scopes.contains(scope) => (&[403][..], "forbidden"),
                // It has passed the guard: what the handler says of this id or body is another matter.
                (Who::Holds(_), _) => passed,
                (Who::Alice | Who::Bob, None) => (&[403][..], "forbidden"),
                (Who::Alice, Some((own, _))) => (std::slice::from_ref(own), answer.problem()),
                (Who::Bob, Some((_, others))) => (std::slice::from_ref(others), answer.problem()),
            };
            assert!(expected.contains(&answer.status) && answer.problem() == problem, "{what}");
        }
    }
    assert_eq!(RIGHTS.len(), routes().count(), "a row of a route that is gone");
    world.close().await;
}

#[test]
fn every_route_has_an_operation_of_its_own_and_rights_where_they_are_due() {
    let mut operations = HashSet::new();
    let mut routes_seen = HashSet::new();
    for route in routes() {
        assert!(operations.insert(route.operation), "{} names two routes", route.operation);
        assert!(
            routes_seen.insert((&route.method, route.path)),
            "{} {} is there twice",
            route.method,
            route.path
        );
        let is_public = route.access == Access::Public;
        assert_eq!(is_public, !route.path.starts_with("/v1/"), "{}", route.path);
    }
    assert!(operations.len() >= 14, "{operations:?}");
}
