//! The other end of every open connection dies without a word: nothing arrives any more, and no connection is closed.
//! New connections work at once.

use futures_util::future::join_all;
use serde_json::json;

use super::{QUANTITY, USERS, someone};
use crate::support::{Hop, SOON, World, owns, wait_until};

/// More than the pool has connections.
const READS: usize = 20;

/// In a rush, with reads in flight, and at rest: all parts of both processes connect again, with nothing restarted.
async fn survives_silence(hop: Hop, row: &str) {
    let fault = owns(row);
    let mut world = World::bare(1).await;
    world.migrate().await;
    let proxy = world.proxy(hop).await;
    for _ in 0..2 {
        world.add_process_through("", &[&proxy]).await;
    }
    let campaign = world.open_campaign(json!({ "quantity": QUANTITY })).await;
    let first = tokio::spawn(world.rush(campaign, USERS * 2 / 5).run());
    world.issued(campaign, QUANTITY / 4).await;
    let all = tokio::spawn(world.rush(campaign, USERS).run());
    let before = proxy.fired();
    let path = format!("/v1/campaigns/{campaign}");
    let reads = (0..READS).map(|number| {
        let (api, path) = (world.processes[number % 2].http(), path.clone());
        tokio::spawn(async move { api.get(&path).await.status })
    });
    let reads: Vec<_> = reads.collect();
    proxy.silence();
    wait_until("the silence is felt", SOON, async || proxy.fired() > before).await;
    fault.fired(proxy.fired() - before);
    for status in join_all(reads).await {
        assert!([200, 503].contains(&status.unwrap()));
    }
    for rush in [first, all] {
        world.answered(&rush.await.unwrap()).await;
    }
    world.balanced_within(SOON).await;
    fault.healed();

    let before = proxy.fired();
    proxy.silence();
    let claimed = async || world.claim(campaign, &someone()).await.status != 503;
    wait_until("claims are answered", SOON, claimed).await;
    fault.fired(proxy.fired() - before);
    for process in &world.processes {
        let is_ready = async || process.http().get("/readyz").await.status == 200;
        wait_until("it is ready", SOON, is_ready).await;
        let reads = async || process.http().get(&path).await.status == 200;
        wait_until("it reads", SOON, reads).await;
    }
    world.open_campaign(json!({})).await;
    world.balanced_within(SOON).await;
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_postgres_that_falls_silent_is_left_and_reached_again() {
    survives_silence(Hop::Postgres, "postgres-silent").await;
}

#[tokio::test]
async fn a_redis_that_falls_silent_is_left_and_reached_again() {
    survives_silence(Hop::Redis, "redis-silent").await;
}

#[tokio::test]
async fn a_nats_that_falls_silent_is_left_and_reached_again() {
    survives_silence(Hop::Nats, "nats-silent").await;
}
