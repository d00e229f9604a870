//! Who is away, and comes back.

use super::STREAM;
use super::outsider::Outsider;
use crate::support::{Nats, SOON, World, owns, wait_until};
use async_nats::jetstream;
use serde_json::json;
use std::time::Duration;
use time::OffsetDateTime;

pub(super) async fn while_nats_is_away_the_outbox_waits(nats: Nats) {
    let fault = owns("nats-away");
    let mut world = World::on(nats, &["api,relay", "project"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 1_000 })).await;
    world.answered(&world.rush(campaign, 100).run().await).await;
    world.assert_published().await;
    world.stop_nats().await;
    fault.fired(1);
    world.answered(&world.rush(campaign, 500).run().await).await;
    world.start_nats().await;
    world.assert_published().await;
    Outsider::new("outsider").assert_has_all(&world).await;
    fault.healed();
    world.close().await;
}

/// Behind two nodes and the relay.
const PROJECTOR: usize = 3;
const NODE: usize = 0;

/// The projector comes late, to more than it takes at a time.
pub(super) async fn a_cluster_that_loses_its_leader_loses_nothing(nats: Nats) {
    let fault = owns("cluster-leader-killed");
    let mut world = World::on(nats, &["api,relay", "project"]).await;
    world.processes[PROJECTOR].kill();
    let campaign = world.open_campaign(json!({ "quantity": 3_000 })).await;
    let rush = tokio::spawn(world.rush(campaign, 3_000).run());
    for issued in [400, 1_200, 2_000] {
        world.issued(campaign, issued).await;
        let leader = world.leading_node().await;
        let node = ["nats-1", "nats-2"].iter().position(|name| *name == leader);
        if let Some(node) = node {
            world.processes[node].kill();
            fault.fired(1);
            world.issued(campaign, issued + 200).await;
            world.processes[node].launch();
        } else {
            world.servers.nats.kill().await;
            fault.fired(1);
            world.issued(campaign, issued + 200).await;
            world.servers.nats.start().await.unwrap();
        }
    }
    world.answered(&rush.await.unwrap()).await;
    world.assert_published().await;
    Outsider::new("outsider").assert_has_all(&world).await;
    world.processes[PROJECTOR].start().await;
    fault.healed();
    world.close().await;
}

/// Away for longer than the servers remember the ids of messages.
pub(super) async fn a_node_that_was_away_catches_up(nats: Nats) {
    let fault = owns("cluster-node-away");
    let mut world = World::on(nats, &["api,relay", "project"]).await;
    world.append_events(10).await;
    world.assert_published().await;
    world.processes[NODE].kill();
    fault.fired(1);
    wait_until("the window has passed", SOON, async || {
        let Ok(stream) = jetstream::new(world.nats().await).get_stream(STREAM).await else { return false };
        let info = stream.cached_info();
        let window = info.config.duplicate_window + Duration::from_secs(1);
        OffsetDateTime::now_utc() - info.state.last_timestamp > window
    })
    .await;
    world.processes[NODE].launch();
    for _ in 0..20 {
        world.append_events(1).await;
        world.assert_published().await;
    }
    wait_until("the node has what came since", SOON, async || {
        let streams = world.processes[NODE].http().get("/jsz?streams=true").await.body;
        let own = &streams["account_details"][0]["stream_detail"];
        let own = own.as_array().into_iter().flatten().find(|stream| stream["name"] == STREAM);
        own.is_some_and(|own| own["state"]["messages"] == 30)
    })
    .await;
    fault.healed();
    world.close().await;
}
