//! The failure of a request, as the log has it.

use std::time::Instant;

use futures_util::future::join_all;
use serde_json::json;

use super::{TRACE, TRACEPARENT, is_logged};
use crate::support::{SOON, World, wait_until};

#[tokio::test]
async fn the_failure_of_a_request_is_logged_once_with_its_route_and_trace() {
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let traced = world.api().with("traceparent", TRACEPARENT);
    sqlx::query("ALTER TABLE wallet RENAME TO purse").execute(&world.pool).await.unwrap();
    assert_eq!(traced.get("/v1/users/alice/coupons").await.status, 500);
    let request = format!(
        "request{{method=GET route=\"/v1/users/{{user_id}}/coupons\" trace_id=\"{TRACE}\" request_id="
    );
    is_logged(&world, &["ERROR", &request, "the database failed a request", "does not exist"]).await;
    sqlx::query("ALTER TABLE purse RENAME TO wallet").execute(&world.pool).await.unwrap();

    world.servers.postgres.kill().await;
    let unknown = "/v1/campaigns/01ARZ3NDEKTSV4RRFFQ69G5FAV/coupons";
    assert_eq!(traced.post(unknown, &json!({ "user_id": "alice" })).await.status, 503);
    let request = format!(
        "request{{method=POST route=\"/v1/campaigns/{{id}}/coupons\" trace_id=\"{TRACE}\" request_id="
    );
    is_logged(&world, &["WARN", &request, "the database failed a request"]).await;
    assert_eq!(world.api().get(&format!("/v1/campaigns/{campaign}")).await.status, 503);
    is_logged(
        &world,
        &["WARN", "request{method=GET route=\"/v1/campaigns/{id}\" request_id=", "failed a request"],
    )
    .await;
    let failures = world.processes[0].log().matches("the database failed a request").count();
    assert_eq!(failures, 3, "each failure is logged once");
    world.servers.postgres.start().await.unwrap();
    wait_until("claims are taken", SOON, async || world.claim(campaign, "alice").await.status == 201).await;
    world.close().await;
}

#[tokio::test]
async fn of_failures_that_are_alike_one_a_second_is_logged() {
    let mut world = World::start().await;
    let path = format!("/v1/campaigns/{}", world.open_campaign(json!({})).await);
    world.servers.postgres.kill().await;
    let lines = |world: &World| -> Vec<String> {
        let log = world.processes[0].log();
        log.lines().filter(|line| line.contains("failed a request")).map(str::to_owned).collect()
    };
    let left_out = |line: &String| -> usize {
        let number = line.split("left_out=").nth(1);
        number.map_or(0, |number| number.split(' ').next().unwrap().parse().unwrap())
    };
    let (began, mut failed) = (Instant::now(), 0);
    wait_until("the log says how many are left out", SOON, async || {
        let api = world.api();
        let answers = join_all((0..50).map(|_| api.get(&path))).await;
        assert!(answers.iter().all(|answer| answer.status == 503), "{answers:?}");
        failed += answers.len();
        lines(&world).iter().any(|line| left_out(line) > 0)
    })
    .await;
    let lines = lines(&world);
    assert!(u64::try_from(lines.len()).unwrap() <= began.elapsed().as_secs() + 1, "{lines:#?}");
    assert!(lines.len() + lines.iter().map(left_out).sum::<usize>() <= failed, "{failed} {lines:#?}");
    world.servers.postgres.start().await.unwrap();
    world.close().await;
}
