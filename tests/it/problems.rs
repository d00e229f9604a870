//! Every refusal, as a caller sees it. A caller branches on these: they never change.

use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Answer, SOON, TOKEN, World, draft, in_seconds, wait_for, wait_until};

/// Status, content type, `Retry-After`, body.
fn seen(answer: Answer) -> (u16, String, Option<String>, Value) {
    let header = |name| answer.header(name).map(str::to_owned);
    (answer.status, header("content-type").unwrap_or_default(), header("retry-after"), answer.body)
}

fn problem(
    status: u16,
    retry_after: Option<&str>,
    slug: &str,
    title: &str,
    members: Value,
) -> (u16, String, Option<String>, Value) {
    let mut body = json!({ "type": slug, "title": title, "status": status });
    let Value::Object(members) = members else { panic!("members are an object") };
    body.as_object_mut().unwrap().extend(members);
    (status, "application/problem+json".to_owned(), retry_after.map(str::to_owned), body)
}

#[tokio::test]
async fn every_refusal_of_a_request_that_cannot_be() {
    let world = World::start().await;
    let (api, nobody) = (world.api(), world.api().with_token(None));
    let campaign = world.create_campaign(json!({})).await;
    let claims = format!("/v1/campaigns/{campaign}/coupons");
    let unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let not_found = |detail: &str| {
        problem(404, None, "not-found", "There is no such thing.", json!({ "detail": detail }))
    };
    for (answer, expected) in [
        (api.get("/v1").await, not_found("There is no such route.")),
        (api.get("/v1/campaigns/1").await, not_found("The id is not a ULID.")),
        (api.get(&format!("/v1/campaigns/{unknown}")).await, not_found("There is no such campaign.")),
        (api.get(&format!("/v1/coupons/{unknown}")).await, not_found("There is no such coupon.")),
        (
            api.send(Method::PUT, "/v1/campaigns", "").await,
            problem(405, None, "method-not-allowed", "This cannot be done here.", json!({})),
        ),
        (
            nobody.get("/v1/campaigns").await,
            problem(401, None, "unauthorized", "A valid bearer token is needed.", json!({})),
        ),
        (
            api.send(Method::POST, &claims, vec![b' '; 16 * 1024 + 1]).await,
            problem(
                413,
                None,
                "too-large",
                "The body is too large.",
                json!({
                    "detail": "at most 16384 bytes",
                    "errors": [{ "field": "body", "reason": "must be at most 16384 bytes" }],
                }),
            ),
        ),
        (
            api.send(Method::POST, &claims, r#"{"user_id":7}"#).await,
            problem(
                422,
                None,
                "malformed-body",
                "The body cannot be read.",
                json!({
                    "errors": [{
                        "field": "user_id",
                        "reason": "invalid type: integer `7`, expected a string at line 1 column 12",
                    }],
                }),
            ),
        ),
        (
            api.post(&claims, &json!({ "user_id": "" })).await,
            problem(
                422,
                None,
                "invalid",
                "Some fields cannot be as they are.",
                json!({
                    "errors": [{ "field": "user_id", "reason": "must be 1 to 64 visible ASCII characters" }],
                }),
            ),
        ),
        (
            api.post("/v1/campaigns", &draft(json!({ "quantity": 0, "currency": "?" }))).await,
            problem(
                422,
                None,
                "invalid",
                "Some fields cannot be as they are.",
                json!({
                    "errors": [
                        { "field": "currency", "reason": "must be a code of ISO 4217, such as EUR" },
                        { "field": "quantity", "reason": "must be 1 to 10000000" },
                    ],
                }),
            ),
        ),
    ] {
        assert_eq!(seen(answer), expected);
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
    for (answer, expected) in [
        (
            world.claim(single, "alice").await,
            problem(409, None, "already-issued", "The user has his coupon.", json!({ "coupon": coupon })),
        ),
        (
            world.claim(limited, "alice").await,
            problem(
                409,
                None,
                "user-limit-reached",
                "The user has as many coupons as one may have.",
                json!({
                    "coupon": newest,
                }),
            ),
        ),
        (
            world.claim(single, "bob").await,
            problem(410, None, "sold-out", "All coupons are issued.", json!({})),
        ),
        (
            world.claim(later, "bob").await,
            problem(
                403,
                None,
                "not-open",
                "The campaign is not open.",
                json!({
                    "opens_at": opened.body["opens_at"],
                }),
            ),
        ),
    ] {
        assert_eq!(seen(answer), expected);
    }
    world.api().post(&format!("/v1/campaigns/{single}/close"), &Value::Null).await;
    let closed = problem(410, None, "closed", "The campaign is closed.", json!({}));
    assert_eq!(seen(world.claim(single, "bob").await), closed);
    let reopened = world.api().post(&format!("/v1/campaigns/{single}/open"), &Value::Null).await;
    let expected = problem(
        409,
        None,
        "not-allowed-in-state",
        "The campaign's state does not allow this.",
        json!({
            "detail": "a campaign that is closed cannot be opened",
        }),
    );
    assert_eq!(seen(reopened), expected);
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
    let title = "Claims cannot be taken at this moment.";
    assert_eq!(seen(refused.await), problem(503, Some("1"), "gate-unavailable", title, json!({})));
    world.servers.redis.start().await.unwrap();
    wait_until("claims are taken", SOON, async || world.claim(campaign, "bob").await.status != 503).await;

    world.servers.postgres.kill().await;
    let title = "The database cannot be reached.";
    let detail = json!({ "detail": "Ask again: the answer will be the coupon, or why there is none." });
    let expected = problem(503, Some("1"), "storage-unavailable", title, detail);
    assert_eq!(seen(world.claim(campaign, "carol").await), expected);
    assert_eq!(seen(world.api().get("/v1/campaigns").await).0, 503);
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
    let answer = world.api().get("/v1/users/alice/coupons").await;
    assert_eq!(
        seen(answer),
        problem(500, None, "internal", "Something is wrong with the service.", json!({}))
    );
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
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let (_, _, _, expected) = problem(408, None, "too-slow", "The body did not come in time.", json!({}));
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected);
    world.close().await;
}
