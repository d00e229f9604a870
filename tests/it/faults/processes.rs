//! A process of ours is killed, frozen, or asked to end.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::survives;
use crate::support::{SOON, World, owns, wait_until};

#[tokio::test]
async fn a_process_that_is_killed_in_a_rush_has_kept_every_promise() {
    let mut world = World::start().await;
    survives(&mut world, &owns("process-killed"), async |world: &mut World, _| {
        world.processes[0].kill();
        world.processes[0].start().await;
    })
    .await;
    world.close().await;
}

#[tokio::test]
async fn a_crowd_that_comes_at_once_finds_a_place_to_wait() {
    let fault = owns("crowd-at-once");
    let world = World::start().await;
    let process = &world.processes[0];
    process.freeze(); // it accepts nobody
    let crowd = join_all((0..1_000).map(async |_| TcpStream::connect(process.address).await));
    let crowd = timeout(SOON, crowd).await;
    fault.fired(1);
    process.thaw();
    assert!(crowd.expect("somebody finds no place").iter().all(Result::is_ok));
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn one_of_three_is_killed_in_a_rush_and_the_others_go_on() {
    let mut world = World::with_processes(&["", "", "api"]).await;
    survives(&mut world, &owns("one-process-of-three-killed"), async |world: &mut World, _| {
        world.processes[0].kill();
    })
    .await;
    world.close().await;
}

#[tokio::test]
async fn a_process_that_sleeps_past_its_leases_does_no_harm() {
    let fault = owns("process-frozen");
    let mut world = World::with_processes(&["api", ""]).await;
    let campaign = world.open_campaign(json!({ "quantity": 21 })).await;
    world.claim(campaign, "first").await;
    world.pending(campaign, 0).await;
    world.servers.postgres.freeze();
    let claims = (0..20).map(|number| {
        let api = world.api();
        let path = format!("/v1/campaigns/{campaign}/coupons");
        async move { api.try_post(&path, &json!({ "user_id": format!("sleeper-{number}") })).await }
    });
    let claims = tokio::spawn(join_all(claims));
    world.pending(campaign, 20).await;
    // Its statement is lost with Postgres; what it holds it has in memory alone.
    world.processes[0].freeze();
    fault.fired(1);
    world.servers.postgres.kill().await;
    world.servers.postgres.start().await.unwrap();

    let other = world.processes[1].http();
    let path = format!("/v1/campaigns/{campaign}/coupons");
    for number in 0..20 {
        let body = json!({ "user_id": format!("other-{number}") });
        let won = async || other.post(&path, &body).await.status == 201;
        wait_until("the seat is sold again", SOON, won).await;
    }
    world.processes[0].thaw();
    let answers = claims.await.unwrap();
    assert!(answers.iter().flatten().all(|answer| answer.status != 201), "{answers:?}");
    assert_eq!(world.coupons(campaign).await, 21);
    fault.healed();
    world.close().await;
}

/// It has paused a campaign, and not committed that: the shard is locked.
#[tokio::test]
async fn a_process_that_stands_still_in_a_change_holds_up_no_claim() {
    let fault = owns("process-frozen");
    let mut world = World::with_processes(&["", "api"]).await;
    let [changed, other] = [world.open_campaign(json!({})).await, world.open_campaign(json!({})).await];
    world.processes[0].kill();
    world.processes[0].set("FAILPOINTS", "campaign.published=stall:600000");
    world.processes[0].start().await;
    let (api, path) = (world.api(), format!("/v1/campaigns/{changed}/pause"));
    let pause = tokio::spawn(async move { api.try_post(&path, &Value::Null).await });
    let locked = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'idle in transaction')";
    let locked = async || sqlx::query_scalar::<_, bool>(locked).fetch_one(&world.pool).await.unwrap();
    wait_until("the change holds its locks", SOON, locked).await;
    world.processes[0].freeze();
    fault.fired(1);
    let elsewhere = world.processes[1].http();
    for campaign in [other, changed] {
        let claims = format!("/v1/campaigns/{campaign}/coupons");
        let won = async || elsewhere.post(&claims, &json!({ "user_id": "alice" })).await.status == 201;
        wait_until("claims are served", SOON, won).await;
    }
    world.processes[0].kill();
    drop(pause.await);
    world.processes[0].set("FAILPOINTS", "");
    world.processes[0].start().await;
    fault.healed();
    world.balanced().await;
    world.close().await;
}

#[tokio::test]
async fn a_process_that_is_asked_to_end_answers_what_it_has_taken() {
    let fault = owns("process-terminated");
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    world.claim(campaign, "first").await;
    world.pending(campaign, 0).await;
    world.servers.postgres.freeze();
    let claims = (0..50).map(|number| {
        let api = world.api();
        let path = format!("/v1/campaigns/{campaign}/coupons");
        async move { api.post(&path, &json!({ "user_id": format!("user-{number}") })).await.status }
    });
    let claims = tokio::spawn(join_all(claims));
    world.pending(campaign, 50).await;
    world.processes[0].terminate();
    fault.fired(1);
    wait_until("it is stopping", SOON, async || world.processes[0].log().contains("stopping")).await;
    world.servers.postgres.thaw();
    assert_eq!(claims.await.unwrap(), [201; 50]);
    assert_eq!(world.processes[0].ended().await.code(), Some(0));
    let log = world.processes[0].log();
    assert!(log.trim_end().ends_with("coupon stopped"), "{log}");
    world.processes[0].start().await;
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_process_that_is_asked_to_end_in_a_rush_fails_nobody() {
    let mut world = World::with_processes(&["", ""]).await;
    survives(&mut world, &owns("process-terminated"), async |world: &mut World, _| {
        world.processes[0].terminate();
        assert_eq!(world.processes[0].ended().await.code(), Some(0));
    })
    .await;
    world.close().await;
}
