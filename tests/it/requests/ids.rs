//! Every answer has the id of its request.

use hyper::Method;
use serde_json::json;

use super::{all, body_of, is_problem};
use crate::support::{SOON, TOKEN, World, wait_until};

const GIVEN: &str = r#"night-"7"\{}'%0A"#;

#[tokio::test]
async fn an_id_is_taken_from_the_request_or_given() {
    let mut world = World::start().await;
    for (route, path) in all() {
        let body = body_of(route).unwrap_or_default().to_string();
        let send = async |method: &Method, id: Option<&'static str>| {
            let api = world.api();
            let api = if let Some(id) = id { api.with("request-id", id) } else { api };
            api.send(method.clone(), &path, body.clone()).await
        };
        let mut given = Vec::new();
        for id in [None, Some(""), Some("two words"), Some("caf\u{e9}"), Some(LONG)] {
            let answer = send(&route.method, id).await;
            let found = answer.header("request-id").unwrap().to_owned();
            assert!(found.len() == 26 && found.parse::<ulid::Ulid>().is_ok(), "{id:?} {path}: {answer:?}");
            assert!(answer.status < 400 || answer.body["request_id"] == json!(found), "{answer:?}");
            given.push(found);
        }
        given.sort();
        given.dedup();
        assert_eq!(given.len(), 5, "each request has an id of its own");
        for id in [GIVEN, &LONG[1..]] {
            for method in [&route.method, &Method::PUT, &Method::HEAD] {
                let answer = send(method, Some(id)).await;
                assert_eq!(answer.header("request-id"), Some(id), "{method} {path}: {answer:?}");
                let has_problem = answer.status >= 400 && *method != Method::HEAD;
                assert!(!has_problem || answer.body["request_id"] == json!(id), "{answer:?}");
            }
        }
        let two = world.api().with("request-id", "one").with("request-id", "two");
        let answer = two.send(route.method.clone(), &path, body.clone()).await;
        assert_eq!(answer.header("request-id").map(str::len), Some(26), "{answer:?}");
    }
    // The length that HEAD tells is that of the body with the id.
    let wrong = world.api().with_token(None).with("request-id", GIVEN);
    let (get, head) = (wrong.get("/v1/campaigns").await, wrong.send(Method::HEAD, "/v1/campaigns", "").await);
    is_problem(&get, 401, "unauthorized", &[], "GET");
    assert_eq!(head.header("content-length"), Some(get.text.len().to_string().as_str()), "{head:?}");

    // A process that waits for Postgres.
    let mut waiting = world.process("api");
    waiting.set("DATABASE_URL", "postgres://coupon@127.0.0.1:1/none");
    waiting.launch();
    let api = waiting.http().with("request-id", GIVEN);
    wait_until("it listens", SOON, async || api.try_get("/livez").await.is_some()).await;
    is_problem(&api.get("/v1/campaigns").await, 503, "storage-unavailable", &[], "while it starts");
    waiting.kill();
    world.processes[0].ready().await;
    world.close().await;
}

/// 129 characters: one too many.
const LONG: &str = "123456789-123456789-123456789-123456789-123456789-123456789-123456789-123456789-123456789-123456789-\
                    123456789-123456789-123456789";

#[tokio::test]
async fn the_log_names_a_failure_by_the_id_of_its_request() {
    let world = World::start().await;
    world.execute("ALTER TABLE wallet RENAME TO purse").await;
    let answer = world.api().with("request-id", "night-7").get("/v1/users/alice/coupons").await;
    assert_eq!((answer.status, &answer.body["request_id"]), (500, &json!("night-7")));
    let own = world.api().get("/v1/users/alice/coupons").await;
    world.execute("ALTER TABLE purse RENAME TO wallet").await;
    for id in ["night-7", own.header("request-id").unwrap()] {
        let logged = || {
            let log = world.processes[0].log();
            log.lines()
                .filter(|line| line.contains("ERROR") && line.contains(&format!("request_id=\"{id}\"")))
                .count()
        };
        wait_until(id, SOON, async || logged() == 1).await;
    }
    let campaign = world.create_campaign(json!({})).await;
    let open = format!("/v1/campaigns/{campaign}/open");
    assert_eq!(world.api().with("request-id", "opens").post(&open, &json!({})).await.status, 200);
    let logged = || {
        let log = world.processes[0].log();
        log.lines().any(|line| line.contains("gate loaded") && line.contains("request_id=\"opens\""))
    };
    wait_until("what happens on the way is logged with the id", SOON, async || logged()).await;
    assert!(!world.processes[0].log().contains(TOKEN));
    world.close().await;
}
