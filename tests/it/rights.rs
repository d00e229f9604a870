//! The table of routes: who may use which, called one by one. A new row is covered by itself.

use std::collections::HashSet;

use coupon_dispatcher::http::{Access, Route, routes};
use hyper::Method;
use serde_json::json;

use crate::support::{Answer, Http, SOON, TOKEN, World, wait_until};

/// The scopes that each route takes, by its operation; none where everybody may use it.
const RIGHTS: [(&str, &[&str]); 13] = [
    ("live", &[]),
    ("ready", &[]),
    ("metrics", &[]),
    ("listProblems", &[]),
    ("showProblem", &[]),
    ("createCampaign", &["admin", "campaign"]),
    ("listCampaigns", &["admin", "campaign", "issue", "read"]),
    ("showCampaign", &["admin", "campaign", "issue", "read"]),
    ("openCampaign", &["admin", "campaign"]),
    ("closeCampaign", &["admin", "campaign"]),
    ("claimCoupon", &["admin", "issue"]),
    ("showCoupon", &["admin", "read"]),
    ("listCouponsOfUser", &["admin", "read"]),
];
const SCOPES: [&str; 6] = ["admin", "campaign", "issue", "redeem", "read", "settle"];

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
    api.send(method.clone(), &parts.collect::<Vec<_>>().join("/"), r#"{"user_id":"alice"}"#).await
}

#[tokio::test]
async fn every_route_is_open_to_those_who_have_the_right_and_to_nobody_else() {
    let world = World::start().await;
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

/// Every kind of caller: a word for it, its token, and its scope if it is valid.
async fn callers(world: &World) -> Vec<(&'static str, Option<String>, Option<&'static str>)> {
    let mut callers = vec![("nobody", None, None), ("admin token", Some(TOKEN.to_owned()), Some("admin"))];
    for scope in SCOPES {
        callers.push((scope, Some(world.token(&["--scope", scope]).await), Some(scope)));
    }
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
    ] {
        let api = world.api().with_token(Some(&token));
        wait_until(kind, SOON, async || api.get("/v1/campaigns").await.status != 200).await;
        callers.push((kind, Some(token), None));
    }
    callers
}

#[tokio::test]
async fn every_route_answers_every_kind_of_caller_as_the_table_says() {
    let world = World::start().await;
    let callers = callers(&world).await;
    for route in routes() {
        let id = world.open_campaign(json!({})).await.to_string(); // one that no other route has closed
        let row = RIGHTS.iter().find(|(operation, _)| *operation == route.operation);
        let (_, scopes) = row.unwrap_or_else(|| panic!("RIGHTS has no row of {}", route.operation));
        for (kind, token, scope) in &callers {
            let api = world.api().with_token(token.as_deref());
            let answer = call(&api, &route.method, route, &id).await;
            let what = format!("{} {} as {kind}: {answer:?}", route.method, route.path);
            let (expected, problem): (&[u16], _) = match scope {
                _ if scopes.is_empty() => (&[200], ""),
                None => (&[401], "unauthorized"),
                Some(scope) if !scopes.contains(scope) => (&[403], "forbidden"),
                // It has passed the guard: what the handler says of this id or body is another matter.
                Some(_) => (&[200, 201, 404, 409, 422], answer.problem()),
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
    assert!(operations.len() >= 13, "{operations:?}");
}
