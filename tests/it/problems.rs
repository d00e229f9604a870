//! Every refusal, as a caller sees it: a file in `snapshots/` for each kind, and for each form of some kinds. A caller
//! branches on these: they never change. Those that take a long way are compared by the tests that go it.
//!
//! To accept what changed: `INSTA_UPDATE=always cargo test --features failpoints --test it -- problems::`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use hyper::header::HeaderName;
use hyper::{HeaderMap, Method};
use insta::{assert_snapshot, with_settings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::contract::{assert_described_problem, document};
use crate::support::{Answer, Http, SOON, TOKEN, World, draft, in_seconds, wait_for, wait_until};

/// An answer is as the snapshot says: status, headers that matter, body.
pub(crate) fn is_as_ever(name: &str, answer: &Answer) {
    if answer.status >= 400 && ["coupon", "last_change"].iter().all(|member| answer.body[member] != "…") {
        assert_described_problem(answer);
    }
    let headers = ["content-type", "retry-after", "www-authenticate", "allow", "vary"];
    let headers = headers.map(|name| Some(format!("{name}: {}\n", answer.header(name)?)));
    let headers = headers.into_iter().flatten().collect::<String>();
    let mut body = answer.body.clone();
    if let Some(id) = body.get_mut("request_id") {
        assert_eq!(id.as_str(), answer.header("request-id"), "{name}");
        *id = json!("…"); // another in each run
    }
    let body = if body.is_null() { answer.text.clone() } else { format!("{body:#}") };
    let seen = format!("{}\n{headers}\n{body}", answer.status);
    with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        assert_snapshot!(name, seen);
    });
}

/// The example of each problem in the document is an answer that a test has got, but for members that not every answer has.
#[test]
fn examples_are_answers_that_were_given() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/snapshots");
    let texts = fs::read_dir(folder).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let given = |text: String| serde_json::from_str::<Value>(&text[text.find("\n{")?..]).ok();
    let given: Vec<Value> = texts.filter_map(given).collect();
    let document = document();
    let mut seen = BTreeSet::new();
    for operation in
        document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values())
    {
        for response in operation["responses"].as_object().unwrap().values() {
            for (slug, example) in
                response["content"]["application/problem+json"]["examples"].as_object().into_iter().flatten()
            {
                let example = &example["value"];
                let is_given = |answer: &Value| {
                    let mut members = answer.as_object().unwrap().iter().filter(|(_, value)| **value != "…");
                    members.all(|(name, value)| &example[name] == value)
                };
                assert!(given.iter().any(is_given), "{example:#}");
                seen.insert(slug.clone());
            }
        }
    }
    assert!(seen.len() >= 20, "{seen:?}");
}

/// The same with a member whose value is another in each run.
fn is_as_ever_with(name: &str, answer: Answer, member: &str, value: &Value) {
    assert_eq!(&answer.body[member], value, "{name}");
    let mut answer = answer;
    answer.body[member] = json!("…");
    is_as_ever(name, &answer);
}

#[tokio::test]
async fn every_refusal_of_a_request_that_cannot_be() {
    let world = World::start().await;
    let (api, nobody) = (world.api(), world.api().with_token(None));
    let campaign = world.create_campaign(json!({})).await;
    let claims = format!("/v1/campaigns/{campaign}/coupons");
    let unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let wrong = draft(json!({ "quantity": 0, "currency": "?" }));
    let neither = draft(json!({ "coupon_valid_for": null }));
    for (name, answer) in [
        ("not-found-route", api.get("/v1").await),
        ("not-found-ulid", api.get("/v1/campaigns/1").await),
        ("not-found-campaign", api.get(&format!("/v1/campaigns/{unknown}")).await),
        ("not-found-coupon", api.get(&format!("/v1/coupons/{unknown}")).await),
        ("not-found-problem", api.get("/problems/none").await),
        ("method-not-allowed", api.send(Method::PUT, "/v1/campaigns", "").await),
        ("unauthorized", nobody.get("/v1/campaigns").await),
        ("too-large", api.send(Method::POST, &claims, vec![b' '; 16 * 1024 + 1]).await),
        ("malformed-body", api.send(Method::POST, &claims, r#"{"user_id":7}"#).await),
        (
            "unsupported-media-type",
            api.instead("content-type", "text/plain").send(Method::POST, &claims, "x").await,
        ),
        ("invalid-query", api.get("/v1/campaigns?limit=0&page=2").await),
        ("invalid-claim", api.post(&claims, &json!({ "user_id": "" })).await),
        ("invalid-campaign", api.post("/v1/campaigns", &wrong).await),
        ("invalid-expiry", api.post("/v1/campaigns", &neither).await),
        ("invalid-status", api.get("/v1/users/alice/coupons?status=lost").await),
    ] {
        is_as_ever(name, &answer);
    }
    world.close().await;
}

#[tokio::test]
async fn every_refusal_of_a_claim() {
    let world = World::start().await;
    let single = world.open_campaign(json!({ "quantity": 1 })).await;
    let limited = world.open_campaign(json!({ "quantity": 9, "per_user_limit": 2 })).await;
    let opens_at = in_seconds(600);
    let later = world.create_campaign(json!({ "opens_at": opens_at })).await;
    let opened = world.api().post(&format!("/v1/campaigns/{later}/open"), &Value::Null).await;
    let coupon = world.claim(single, "alice").await.body;
    world.claim(limited, "alice").await;
    let newest = world.claim(limited, "alice").await.body;
    is_as_ever_with("already-issued", world.claim(single, "alice").await, "coupon", &coupon);
    is_as_ever_with("user-limit-reached", world.claim(limited, "alice").await, "coupon", &newest);
    is_as_ever("sold-out", &world.claim(single, "bob").await);
    is_as_ever_with("not-open", world.claim(later, "bob").await, "opens_at", &opened.body["opens_at"]);
    let edit = async |api: Http, fields: Value| {
        api.send(Method::PATCH, &format!("/v1/campaigns/{limited}"), fields.to_string()).await
    };
    let kept = edit(world.api(), json!({ "opens_at": opens_at })).await;
    is_as_ever("not-editable-in-state", &kept);
    let stale = edit(world.api().with("if-match", "\"1\""), json!({ "quantity": 10 })).await;
    is_as_ever("version-mismatch", &stale);
    world.api().post(&format!("/v1/campaigns/{single}/close"), &Value::Null).await;
    is_as_ever("closed", &world.claim(single, "bob").await);
    let reopened = world.api().post(&format!("/v1/campaigns/{single}/open"), &Value::Null).await;
    is_as_ever("not-allowed-in-state", &reopened);
    world.close().await;
}

#[tokio::test]
async fn every_refusal_of_a_change_of_a_coupon() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let short = world.open_campaign(json!({ "coupon_valid_for": "PT1S" })).await;
    let coupon =
        async |campaign, user| world.claim(campaign, user).await.body["id"].as_str().unwrap().to_owned();
    let (used, cancelled) = (coupon(campaign, "alice").await, coupon(campaign, "bob").await);
    let (other, ended) = (coupon(campaign, "carol").await, coupon(short, "dave").await);
    let act = async |coupon: &str, action: &str, body: Value| {
        world.api().post(&format!("/v1/coupons/{coupon}/{action}"), &body).await
    };
    let order = |order: &str| json!({ "order_ref": order });
    let redeemed = act(&used, "redeem", order("order-1")).await.body;
    let end = act(&cancelled, "cancel", Value::Null).await.body;
    wait_until("a coupon expires", SOON, async || {
        world.api().get(&format!("/v1/coupons/{ended}/changes")).await.body["changes"] != json!([])
    })
    .await;
    let expired = world.api().get(&format!("/v1/coupons/{ended}/changes")).await.body["changes"][0].take();
    let elsewhere = json!({ "order_ref": "order-2", "merchant_id": "merchant-2" });
    let too_much = json!({ "order_ref": "order-2", "amount": 501 });
    for (name, coupon, action, body, last) in [
        ("already-redeemed", &used, "redeem", order("order-2"), &redeemed),
        ("cancelled", &cancelled, "redeem", order("order-2"), &end),
        ("expired", &ended, "redeem", order("order-2"), &expired),
        ("not-redeemed", &other, "restore", order("order-2"), &Value::Null),
        ("order-ref-used", &other, "redeem", order("order-1"), &Value::Null),
        ("coupon-mismatch", &other, "redeem", elsewhere, &Value::Null),
        ("amount-too-high", &other, "redeem", too_much, &Value::Null),
    ] {
        is_as_ever_with(name, act(coupon, action, body).await, "last_change", last);
    }
    world.close().await;
}

#[tokio::test]
async fn every_refusal_that_passes_by_itself() {
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    world.claim(campaign, "alice").await;

    world.servers.redis.kill().await;
    let refused = wait_for("a claim is refused", SOON, async || {
        Some(world.claim(campaign, "bob").await).filter(|answer| answer.status != 201)
    });
    is_as_ever("gate-unavailable", &refused.await);
    world.servers.redis.start().await.unwrap();
    wait_until("claims are taken", SOON, async || world.claim(campaign, "bob").await.status != 503).await;

    world.servers.postgres.kill().await;
    is_as_ever("storage-unavailable-claim", &world.claim(campaign, "carol").await);
    is_as_ever("storage-unavailable-read", &world.api().get("/v1/campaigns").await);
    let created = world.api().post("/v1/campaigns", &draft(json!({}))).await;
    is_as_ever("storage-unavailable-create", &created);
    let closed = world.api().post(&format!("/v1/campaigns/{campaign}/close"), &Value::Null).await;
    is_as_ever("storage-unavailable-change", &closed);
    world.servers.postgres.start().await.unwrap();
    wait_until("claims are taken", SOON, async || world.claim(campaign, "carol").await.status != 503).await;
    world.close().await;
}

#[tokio::test]
async fn a_fault_of_the_service_is_not_told_in_detail() {
    let world = World::start().await;
    let rename = async |from: &str, to: &str| {
        let statement = format!("ALTER TABLE {from} RENAME TO {to}");
        sqlx::query(&statement).execute(&world.pool).await.unwrap();
    };
    rename("wallet", "purse").await;
    is_as_ever("internal", &world.api().get("/v1/users/alice/coupons").await);
    rename("purse", "wallet").await;
    world.close().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let world = World::start().await;
    let mut connection = TcpStream::connect(world.processes[0].address).await.unwrap();
    let header = format!(
        "POST /v1/campaigns HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\n{{"
    );
    connection.write_all(header.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(SOON, connection.read_to_string(&mut answer)).await.expect("no answer").unwrap();
    is_as_ever("too-slow", &parsed(&answer));
    world.close().await;
}

/// An answer as its bytes are.
pub(crate) fn parsed(bytes: &str) -> Answer {
    let (head, text) = bytes.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {bytes:?}"));
    let (status, fields) = head.split_once("\r\n").unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in fields.lines().map(|line| line.split_once(": ").unwrap()) {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    let status = status.split(' ').nth(1).unwrap().parse().unwrap();
    let body = serde_json::from_str(text).unwrap_or_default();
    Answer { status, headers, body, text: text.to_owned(), took: Duration::ZERO }
}

#[tokio::test]
async fn every_kind_has_a_snapshot() {
    let world = World::start().await;
    let list = world.api().get("/problems").await.text;
    let kinds: BTreeSet<_> =
        list.lines().map(|line| line.split([' ', ':']).nth(1).unwrap().to_owned()).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/snapshots");
    let snapshots =
        fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let types = snapshots.filter_map(|snapshot| {
        let (_, rest) = snapshot.split_once("\n  \"type\": \"/problems/")?;
        rest.split('"').next().map(str::to_owned)
    });
    assert_eq!(types.collect::<BTreeSet<_>>(), kinds);
    world.close().await;
}

/// Every kind, by the list, as people and as browsers read it.
#[tokio::test]
async fn every_type_of_a_problem_has_a_page() {
    let world = World::start().await;
    let (people, browser) =
        (world.api(), world.api().with("accept", "text/html,application/xhtml+xml,*/*;q=0.8"));
    let list = people.get("/problems").await;
    is_as_ever("pages", &list);
    is_as_ever("pages-html", &browser.get("/problems").await);
    let slugs: Vec<&str> = list.text.lines().map(|line| line.split([' ', ':']).nth(1).unwrap()).collect();
    assert!(slugs.contains(&"not-found") && slugs.contains(&"overloaded"), "{slugs:?}");
    let mut pages = Vec::new();
    for slug in &slugs {
        let path = format!("/problems/{slug}");
        let (text, html) = (people.get(&path).await, browser.get(&path).await);
        assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(html.header("content-type"), Some("text/html; charset=utf-8"));
        for page in [&text, &html] {
            assert_eq!((page.status, page.header("vary")), (200, Some("Accept")), "{page:?}");
            for part in ["Cause", "What to do", "Is a retry safe?"] {
                assert!(page.text.contains(part), "{}", page.text);
            }
        }
        pages.push(text.text);
    }
    with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        assert_snapshot!("pages-text", pages.join("\n\n"));
    });
    is_as_ever("pages-html-one", &browser.get("/problems/not-open").await);
    assert!(browser.get("/problems/none").await.problem() == "not-found");
    world.close().await;
}
