//! What NATS or Postgres has lost.

use super::outsider::Outsider;
use super::{SHARD, STREAM};
use crate::support::{Nats, Process, SOON, World, owns, wait_until};
use async_nats::jetstream;
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::ids::CampaignId;
use serde_json::json;

pub(super) async fn a_lost_tail_is_published_again(nats: Nats) {
    let fault = owns("nats-rewound");
    let mut world = World::on(nats, &["api,relay", "project"]).await;
    let (mut ahead, mut behind) = (Outsider::new("ahead"), Outsider::new("behind"));
    world.append_events(300).await;
    world.assert_published().await;
    ahead.take(&world, 1_000).await;
    behind.take(&world, 100).await;
    let copy = world.copy_of_nats();
    world.append_events(200).await;
    world.assert_published().await;
    ahead.take(&world, 1_000).await;
    assert_eq!((ahead.applied.len(), behind.applied.len()), (500, 100));

    world.rewind_nats(&copy).await;
    fault.fired(1);
    world.assert_published().await;
    ahead.assert_has_all(&world).await;
    behind.assert_has_all(&world).await;
    fault.healed();
    world.close().await;
}

pub(super) async fn a_tail_that_is_lost_in_a_rush_is_published_again(nats: Nats) {
    let fault = owns("nats-rewound");
    let mut world = World::on(nats, &["api,relay", "project"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 3_000 })).await;
    let rush = tokio::spawn(world.rush(campaign, 3_000).run());
    let mut outsider = Outsider::new("outsider");
    for issued in [300, 1_200] {
        world.issued(campaign, issued).await;
        let copy = world.copy_of_nats();
        world.issued(campaign, issued + 500).await;
        outsider.take(&world, 1_000).await;
        world.rewind_nats(&copy).await;
        fault.fired(1);
        std::fs::remove_dir_all(copy).unwrap();
    }
    world.answered(&rush.await.unwrap()).await;
    world.assert_published().await;
    outsider.assert_has_all(&world).await;
    fault.healed();
    world.close().await;
}

/// By somebody who may, while everybody is at work.
pub(super) async fn a_deleted_stream_is_made_again(nats: Nats) {
    let fault = owns("stream-deleted");
    let world = World::on(nats, &["api,relay", "project"]).await;
    for count in [1, 100, 400] {
        world.append_events(count).await;
        world.assert_published().await;
        jetstream::new(world.nats().await).delete_stream(STREAM).await.unwrap();
        fault.fired(1);
        world.append_events(10).await;
        world.assert_published().await;
    }
    Outsider::new("outsider").assert_has_all(&world).await;
    fault.healed();
    world.close().await;
}

/// The projections, which come to it late, take it from the outbox; others see that it is missing.
pub(super) async fn a_message_that_is_lost_from_the_middle_is_named(nats: Nats) {
    let fault = owns("message-deleted");
    let mut world = World::on(nats, &["api,relay"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 20 })).await;
    world.answered(&world.rush(campaign, 20).run().await).await;
    world.assert_published().await;
    let stream = jetstream::new(world.nats().await).get_stream(STREAM).await.unwrap();
    wait_until("the message is removed", SOON, async || stream.delete_message(7).await.is_ok()).await;
    fault.fired(1);
    world.add_process("project").await;
    wait_until("the audit names it", SOON, async || {
        let audited = world.coupon(&["audit", "--full"]).await;
        audited.code == Some(1) && audited.out.contains("position 7 is event")
    })
    .await;
    let mut outsider = Outsider::new("outsider");
    outsider.assert_reads(&world, (0, world.head(SHARD).await)).await;
    assert!(!outsider.applied.contains_key(&(0, 7)));
    jetstream::new(world.nats().await).delete_stream(STREAM).await.unwrap();
    world.assert_published().await;
    fault.healed();
    world.close().await;
}

pub(super) async fn a_stream_past_retention_needs_a_decision(nats: Nats) {
    let fault = owns("stream-lost-past-retention");
    let world = World::on(nats, &["api,relay", "project"]).await;
    world.append_events(20).await;
    world.balanced().await;
    let mut outsider = Outsider::new("outsider");
    outsider.take(&world, 100).await;
    sqlx::query("DELETE FROM outbox WHERE position <= 12").execute(&world.pool).await.unwrap();
    let context = jetstream::new(world.nats().await);
    context.delete_stream(STREAM).await.unwrap();
    fault.fired(1);
    let reason = world.halted().await;
    assert!(reason.contains("the outbox starts at position 13"), "{reason}");
    assert!(reason.contains("`first_seq` 13"), "{reason}");
    if nats.is_newest() {
        context.delete_stream(STREAM).await.unwrap();
        let config = jetstream::stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![OUTLET.subjects_of(SHARD)],
            first_sequence: Some(13),
            ..Default::default()
        };
        // Its old files may still be on their way out.
        wait_until("the stream is made", SOON, async || context.create_stream(config.clone()).await.is_ok())
            .await;
    } else {
        let begun = world.begin_epoch().await;
        assert_eq!((&begun["first_position"], &begun["first_sequence"]), (&json!(13), &json!(1)));
        assert_eq!((&begun["left"], &begun["lost"]), (&json!(0), &json!(12)));
    }
    world.append_events(5).await;
    wait_until("all is published", SOON, async || {
        let end = world.end_of_stream(SHARD).await;
        end == if nats.is_newest() { 25 } else { 13 }
    })
    .await;
    // Who had read all gets what is new; by epoch and position, or because the sequences go on.
    wait_until("the other service has the last event", SOON, async || {
        outsider.take(&world, 100).await;
        outsider.applied.last_key_value().is_some_and(|((_, position), _)| *position == 25)
    })
    .await;
    fault.healed();
    world.close().await;
}

/// The world does not remember these: they are promised, and lost with the database.
async fn promises_that_are_lost(world: &World, campaign: CampaignId, count: usize) {
    for user in 0..count {
        let claim = json!({ "user_id": format!("late-{user}") });
        let answer = world.api().post(&format!("/v1/campaigns/{campaign}/coupons"), &claim).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
}

pub(super) async fn a_restored_database_needs_an_epoch(nats: Nats) {
    let fault = owns("postgres-rewound");
    let mut world = World::on(nats, &["api,relay", "project"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 1_000 })).await;
    world.answered(&world.rush(campaign, 300).run().await).await;
    world.balanced().await;
    let copy = world.copy_of_postgres();
    let known = world.head(SHARD).await;
    promises_that_are_lost(&world, campaign, 50).await;
    world.balanced().await;
    let mut outsider = Outsider::new("outsider");
    outsider.take(&world, 1_000).await;
    world.services().for_each(Process::kill);
    world.rewind_postgres(&copy).await;
    fault.fired(1);
    for process in world.services() {
        process.start().await;
    }
    let reason = world.halted().await;
    assert!(reason.contains("the database was restored to an earlier time"), "{reason}");

    // The API goes on, also beyond where the stream ends.
    world.answered(&world.rush(campaign, 500).run().await).await;
    let head = world.head(SHARD).await;
    assert!(head > known + 50, "{head}");
    let reason = world.halted().await;
    assert!(reason.contains("Begin a new epoch"), "{reason}");
    assert_eq!(world.end_of_stream(SHARD).await, known + 50);
    let begun = world.begin_epoch().await;
    assert_eq!((&begun["first_position"], &begun["first_sequence"]), (&json!(known + 1), &json!(known + 51)));
    assert_eq!((&begun["left"], &begun["lost"]), (&json!(50), &json!(0)));
    let again = world.coupon(&["relay", "epoch", "new", "--yes"]).await;
    assert_eq!(again.code, Some(1), "{again:?}");

    // He has what the database no longer knows, and then everything that it does, each once.
    outsider.assert_reads(&world, (1, head)).await;
    outsider.applied.retain(|(epoch, position), _| *epoch == 1 || *position <= known);
    outsider.assert_has_all(&world).await;
    fault.healed();
    world.close().await;
}

/// The relay has halted, and what it remembers of the lost database must not let it go on when the outbox is longer
/// than the stream again.
#[tokio::test]
async fn a_database_that_is_restored_under_a_running_relay_needs_an_epoch() {
    let fault = owns("postgres-rewound");
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 1_000 })).await;
    world.answered(&world.rush(campaign, 30).run().await).await;
    world.balanced().await;
    let copy = world.copy_of_postgres();
    let known = world.head(SHARD).await;
    promises_that_are_lost(&world, campaign, 20).await;
    world.balanced().await;
    world.rewind_postgres(&copy).await;
    fault.fired(1);
    world.processes[0].ready().await;
    let reason = world.halted().await;
    assert!(reason.contains("the database was restored to an earlier time"), "{reason}");
    world.answered(&world.rush(campaign, 100).run().await).await;
    assert!(world.head(SHARD).await > known + 20);
    let halted = "relay stopped: it waits for a decision of an operator";
    let twice = async || world.processes[0].log().matches(halted).count() > 1;
    wait_until("the relay halts for another reason", SOON, twice).await;
    assert_eq!(world.end_of_stream(SHARD).await, known + 20);
    assert_eq!(world.begin_epoch().await["first_position"], known + 1);
    world.balanced().await;
    fault.healed();
    world.close().await;
}
