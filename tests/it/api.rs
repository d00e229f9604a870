//! What holds for every route: tokens, paths, bodies, pages.

use hyper::Method;
use serde_json::{Value, json};

use crate::support::{Answer, World, draft, in_seconds};

/// The fields that a problem names, in its order.
fn fields(answer: &Answer) -> Vec<&str> {
    let errors = answer.body["errors"].as_array();
    errors.into_iter().flatten().map(|error| error["field"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn nothing_under_v1_is_told_without_the_token() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    for token in [None, Some(""), Some("a-token-for-tests-onlY"), Some("a-token-for-tests-only2")] {
        let api = world.api().with_token(token);
        for (method, path) in [
            (Method::POST, "/v1/campaigns".to_owned()),
            (Method::GET, "/v1/campaigns".to_owned()),
            (Method::GET, format!("/v1/campaigns/{campaign}")),
            (Method::POST, format!("/v1/campaigns/{campaign}/open")),
            (Method::PATCH, format!("/v1/campaigns/{campaign}")),
            (Method::GET, format!("/v1/campaigns/{campaign}/changes")),
            (Method::POST, format!("/v1/campaigns/{campaign}/sync")),
            (Method::POST, format!("/v1/campaigns/{campaign}/pause")),
            (Method::POST, format!("/v1/campaigns/{campaign}/close")),
            (Method::POST, format!("/v1/campaigns/{campaign}/coupons")),
            (Method::GET, format!("/v1/coupons/{campaign}")),
            (Method::GET, format!("/v1/coupons/{campaign}/changes")),
            (Method::POST, format!("/v1/coupons/{campaign}/redeem")),
            (Method::POST, format!("/v1/coupons/{campaign}/restore")),
            (Method::POST, format!("/v1/coupons/{campaign}/cancel")),
            (Method::POST, "/v1/redemptions".to_owned()),
            (Method::GET, "/v1/users/alice/coupons".to_owned()),
        ] {
            let answer = api.send(method, &path, r#"{"user_id":"alice"}"#).await;
            assert_eq!((answer.status, answer.problem()), (401, "unauthorized"), "{token:?} {path}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
        assert_eq!(api.get("/livez").await.status, 200);
        assert_eq!(api.get("/readyz").await.status, 200);
    }
    assert_eq!(world.coupons(campaign).await, 0);
    world.close().await;
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_cannot_be_done_is_405() {
    let world = World::start().await;
    let api = world.api();
    for id in ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "1", "ZZZZZZZZZZZZZZZZZZZZZZZZZZ", "%ff", "a%2Fb", "%00"] {
        for (method, path) in [
            (Method::GET, format!("/v1/campaigns/{id}")),
            (Method::POST, format!("/v1/campaigns/{id}/open")),
            (Method::PATCH, format!("/v1/campaigns/{id}")),
            (Method::GET, format!("/v1/campaigns/{id}/changes")),
            (Method::POST, format!("/v1/campaigns/{id}/sync")),
            (Method::POST, format!("/v1/campaigns/{id}/pause")),
            (Method::POST, format!("/v1/campaigns/{id}/close")),
            (Method::POST, format!("/v1/campaigns/{id}/coupons")),
            (Method::GET, format!("/v1/coupons/{id}")),
            (Method::GET, format!("/v1/coupons/{id}/changes")),
            (Method::POST, format!("/v1/coupons/{id}/cancel")),
        ] {
            let body = match (&method, path.ends_with("/coupons")) {
                (_, true) => r#"{"user_id":"alice"}"#,
                (&Method::PATCH, _) => "{}",
                _ => "",
            };
            let answer = api.send(method, &path, body).await;
            assert_eq!((answer.status, answer.problem()), (404, "not-found"), "{path}");
        }
    }
    assert_eq!(api.get("/v2").await.problem(), "not-found");
    for (method, path) in [(Method::DELETE, "/v1/campaigns"), (Method::POST, "/v1/users/alice/coupons")] {
        let answer = api.send(method, path, "").await;
        assert_eq!((answer.status, answer.problem()), (405, "method-not-allowed"), "{path}");
        assert!(answer.header("allow").is_some_and(|methods| methods.contains("GET")), "{answer:?}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_422_and_names_the_field() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let path = format!("/v1/campaigns/{campaign}/coupons");
    for (body, field) in [
        ("", "body"),
        ("{", "body"),
        (r#"{"user_id":"al"#, "user_id"),
        (r#"{"user_id":"alice"} x"#, "body"),
        ("null", "body"),
        ("[]", "body"),
        (r#""alice""#, "body"),
        ("{}", "user_id"),
        (r#"{"user_id":5}"#, "user_id"),
        (r#"{"user_id":null}"#, "user_id"),
        (r#"{"user_id":"alice","colour":"red"}"#, "colour"),
    ] {
        let answer = world.api().send(Method::POST, &path, body).await;
        assert_eq!((answer.status, answer.problem()), (422, "malformed-body"), "{body}");
        assert_eq!(fields(&answer), [field], "{body}: {}", answer.text);
    }
    for (field, value) in
        [("quantity", json!("many")), ("opens_at", json!("soon")), ("settle_on", json!("never"))]
    {
        let answer = world.api().post("/v1/campaigns", &draft(json!({ field: value }))).await;
        assert_eq!((answer.status, answer.problem(), fields(&answer)), (422, "malformed-body", vec![field]));
    }
    let answer = world.api().post("/v1/campaigns", &draft(json!({ "currency": null }))).await;
    assert_eq!((answer.status, fields(&answer)), (422, vec!["currency"]));
    assert_eq!(world.coupons(campaign).await, 0);
    world.close().await;
}

/// A reason is for callers: it names types of JSON, and nothing of this program.
#[tokio::test]
async fn no_reason_speaks_of_what_the_program_calls_its_types() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let claims = format!("/v1/campaigns/{campaign}/coupons");
    let mut reasons = Vec::new();
    let values =
        [json!("x"), json!(7), json!(1.5), json!(true), json!(null), json!([]), json!({}), json!(u64::MAX)];
    let known = draft(json!({ "coupon_expires_at": in_seconds(9_999), "per_user_limit": 1 }));
    let fields: Vec<&String> = known.as_object().unwrap().keys().collect();
    for value in &values {
        for (path, body) in [
            (&*claims, value.clone()),
            ("/v1/campaigns", value.clone()),
            (&claims, json!({ "user_id": value })),
            (&claims, json!({ "other": value })),
        ] {
            reasons.push(world.api().post(path, &body).await.body["errors"].clone());
        }
        for field in &fields {
            let body = draft(json!({ *field: value }));
            reasons.push(world.api().post("/v1/campaigns", &body).await.body["errors"].clone());
        }
    }
    let reasons = Value::from(reasons).to_string();
    assert!(reasons.contains("must be an integer") && reasons.contains("must be a time"), "{reasons}");
    let program =
        ["Body", "struct", "i64", "u64", "OffsetDateTime", "Option", "enum", "::", "Settle", "tuple"];
    let parser = ["expected", "invalid type", "EOF", "trailing", "deserialize"];
    for ours in program.into_iter().chain(parser) {
        assert!(!reasons.contains(ours), "{ours}: {reasons}");
    }
    world.close().await;
}

#[tokio::test]
async fn the_scheme_of_a_token_is_read_in_any_letters_and_before_any_spaces() {
    let world = World::start().await;
    let api = world.api().with_token(None);
    for (header, status) in [
        ("bearer a-token-for-tests-only", 200),
        ("BEARER   a-token-for-tests-only", 200),
        ("Bearera-token-for-tests-only", 401),
        ("Bearer", 401),
        ("Basic a-token-for-tests-only", 401),
    ] {
        assert_eq!(api.with("authorization", header).get("/v1/campaigns").await.status, status, "{header}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let body = json!({ "user_id": "a".repeat(16 * 1024) });
    let answer = world.api().post(&format!("/v1/campaigns/{campaign}/coupons"), &body).await;
    assert_eq!((answer.status, answer.problem()), (413, "too-large"));
    assert_eq!(fields(&answer), ["body"]);
    world.close().await;
}

#[tokio::test]
async fn every_field_that_cannot_be_is_named_at_once() {
    let world = World::start().await;
    let refused = async |changes: Value| {
        let answer = world.api().post("/v1/campaigns", &draft(changes.clone())).await;
        assert_eq!((answer.status, answer.problem()), (422, "invalid"), "{changes}: {}", answer.text);
        fields(&answer).join(" ")
    };
    let all = json!({
        "name": " ", "merchant_id": "a b", "currency": "EUX", "face_value": 0, "quantity": -1,
        "per_user_limit": 0, "opens_at": in_seconds(60), "closes_at": in_seconds(0), "coupon_valid_for": "P1M",
    });
    assert_eq!(
        refused(all).await,
        "name merchant_id currency face_value quantity per_user_limit closes_at coupon_valid_for"
    );
    for (changes, field) in [
        (json!({ "quantity": 0 }), "quantity"),
        (json!({ "quantity": i64::MAX }), "quantity"),
        (json!({ "face_value": -5 }), "face_value"),
        (json!({ "face_value": i64::MAX }), "face_value"),
        (json!({ "face_value": 100_000_000_001_i64, "quantity": 10_000_000 }), "face_value"),
        (json!({ "face_value": 1_000_000_000_000_i64, "quantity": 1_000_001 }), "face_value"),
        (json!({ "per_user_limit": 11 }), "per_user_limit"),
        (json!({ "currency": "eur" }), "currency"),
        (json!({ "name": "n".repeat(201) }), "name"),
        (json!({ "name": "nul \u{0}" }), "name"),
        (json!({ "merchant_id": "" }), "merchant_id"),
        (json!({ "opens_at": "0000-01-01T00:00:00+23:59" }), "opens_at"),
        (json!({ "closes_at": "9999-12-31T23:59:59Z" }), "closes_at"),
        (json!({ "closes_at": "9999-12-31T23:59:59-23:59" }), "closes_at"),
        (
            json!({ "coupon_expires_at": "9999-12-31T23:59:59Z", "coupon_valid_for": null }),
            "coupon_expires_at",
        ),
        (json!({ "coupon_valid_for": null }), "coupon_expires_at"),
        (json!({ "opens_at": in_seconds(-20), "closes_at": in_seconds(-10) }), "closes_at"),
        (json!({ "quantity": 2, "per_user_limit": 3 }), "per_user_limit"),
        (json!({ "coupon_expires_at": in_seconds(9_999) }), "coupon_expires_at"),
        (json!({ "coupon_expires_at": in_seconds(60), "coupon_valid_for": null }), "coupon_expires_at"),
    ] {
        assert_eq!(refused(changes.clone()).await, field, "{changes}");
    }
    assert_eq!(world.api().get("/v1/campaigns").await.body, json!({ "campaigns": [], "next": null }));
    world.close().await;
}

#[tokio::test]
async fn a_query_that_cannot_be_is_422() {
    let world = World::start().await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=few", "limit"),
        ("limit=", "limit"),
        ("cursor=1", "cursor"),
        ("page=2", "page"),
        ("limit=2&limit=3", "limit"),
    ] {
        for list in ["/v1/users/alice/coupons", "/v1/campaigns"] {
            let answer = world.api().get(&format!("{list}?{query}")).await;
            assert_eq!((answer.status, fields(&answer)), (422, vec![field]), "{query}: {}", answer.text);
        }
    }
    for user in ["a%20b", "%C3%A9", "%ff", &"u".repeat(65)] {
        let answer = world.api().get(&format!("/v1/users/{user}/coupons")).await;
        assert_eq!((answer.status, fields(&answer)), (422, vec!["user_id"]), "{user}: {}", answer.text);
    }
    world.close().await;
}

#[tokio::test]
async fn health_says_what_is_there() {
    let world = World::start().await;
    let live = world.api().get("/livez").await;
    assert_eq!((live.status, live.text.as_str()), (200, "ok\n"));
    let ready = json!({ "status": "ready", "postgres": "up", "redis": "up", "nats": "up", "halted": [] });
    let answer = world.api().get("/readyz").await;
    assert_eq!((answer.status, answer.body), (200, ready));
    world.close().await;
}
