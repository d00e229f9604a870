//! NATS is away: claims go on, and what they left in the outbox is published afterwards.

use serde_json::json;

use super::survives;
use crate::support::{SOON, World, owns, wait_until};

#[tokio::test]
async fn without_nats_claims_go_on_and_the_backlog_drains_afterwards() {
    let fault = owns("nats-away");
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    world.servers.nats.kill().await;
    fault.fired(1);
    let degraded = async || {
        let answer = world.api().get("/readyz").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["status"] == "degraded" && answer.body["nats"] == "down"
    };
    wait_until("the process says that it is degraded", SOON, degraded).await;
    for number in 0..20 {
        assert_eq!(world.claim(campaign, &format!("user-{number}")).await.status, 201);
    }
    world.servers.nats.start().await.unwrap();
    let ready = async || world.api().get("/readyz").await.body["status"] == "ready";
    wait_until("the process is ready", SOON, ready).await;
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_process_that_starts_without_nats_serves_claims() {
    let fault = owns("nats-absent-at-start");
    let mut world = World::bare(1).await;
    world.migrate().await;
    world.servers.nats.kill().await;
    fault.fired(1);
    world.add_process("").await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.servers.nats.start().await.unwrap();
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_nats_that_is_killed_in_a_rush_is_survived() {
    let mut world = World::start().await;
    survives(&mut world, &owns("nats-killed"), async |world: &mut World, _| {
        world.servers.nats.kill().await;
        world.servers.nats.start().await.unwrap();
    })
    .await;
    world.close().await;
}

#[tokio::test]
async fn a_nats_that_hangs_in_a_rush_is_survived() {
    let mut world = World::start().await;
    survives(&mut world, &owns("nats-frozen"), async |world: &mut World, campaign| {
        world.servers.nats.freeze();
        world.issued(campaign, super::QUANTITY).await;
        world.servers.nats.thaw();
    })
    .await;
    world.close().await;
}
