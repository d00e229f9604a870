//! The log of a process says which request failed, and by what.

use serde_json::json;

use crate::support::{SOON, World, wait_until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// One line of the log has all of these parts.
async fn is_logged(world: &World, parts: &[&str]) {
    let logged = || world.processes[0].log().lines().any(|line| parts.iter().all(|part| line.contains(part)));
    wait_until(&format!("{parts:?} are logged"), SOON, async || logged()).await;
}

#[tokio::test]
async fn the_failure_of_a_request_is_logged_once_with_its_route_and_trace() {
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let traced = world.api().with("traceparent", TRACEPARENT);
    sqlx::query("ALTER TABLE wallet RENAME TO purse").execute(&world.pool).await.unwrap();
    assert_eq!(traced.get("/v1/users/alice/coupons").await.status, 500);
    let request =
        format!("request{{method=GET route=\"/v1/users/{{user_id}}/coupons\" trace_id=\"{TRACE}\"}}");
    is_logged(&world, &["ERROR", &request, "the database failed a request", "does not exist"]).await;
    sqlx::query("ALTER TABLE purse RENAME TO wallet").execute(&world.pool).await.unwrap();

    world.servers.postgres.kill().await;
    let unknown = "/v1/campaigns/01ARZ3NDEKTSV4RRFFQ69G5FAV/coupons";
    assert_eq!(traced.post(unknown, &json!({ "user_id": "alice" })).await.status, 503);
    let request =
        format!("request{{method=POST route=\"/v1/campaigns/{{id}}/coupons\" trace_id=\"{TRACE}\"}}");
    is_logged(&world, &["WARN", &request, "the database failed a request"]).await;
    assert_eq!(world.api().get(&format!("/v1/campaigns/{campaign}")).await.status, 503);
    is_logged(&world, &["WARN", "request{method=GET route=\"/v1/campaigns/{id}\"}", "failed a request"])
        .await;
    let failures = world.processes[0].log().matches("the database failed a request").count();
    assert_eq!(failures, 3, "each failure is logged once");
    world.servers.postgres.start().await.unwrap();
    wait_until("claims are taken", SOON, async || world.claim(campaign, "alice").await.status == 201).await;
    world.close().await;
}

/// What a handler logs on the way has the trace of its request too.
#[tokio::test]
async fn what_happens_on_the_way_is_logged_with_the_trace() {
    let world = World::start().await;
    let campaign = world.create_campaign(json!({})).await;
    let path = format!("/v1/campaigns/{campaign}/open");
    assert_eq!(world.api().with("traceparent", TRACEPARENT).post(&path, &json!(null)).await.status, 200);
    is_logged(&world, &["INFO", &format!("trace_id=\"{TRACE}\""), "gate loaded"]).await;
    world.close().await;
}
