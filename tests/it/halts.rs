//! What holds up a relay or a projector, and what lets it go on.

use std::fs;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{FromConsumer as _, PullConsumer, pull};
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::servers::Setup;
use outbox_relay::event::EPOCH_HEADER;
use outbox_relay::{AppendError, NewEvent, Shard, append};
use serde_json::json;

use crate::outbox::{append_committed, event};
use crate::support::{SOON, World, owns, wait_until};

const SHARD: Shard = Shard(0);

impl World {
    async fn says(&self, process: usize, words: &str) {
        wait_until(words, SOON, async || self.processes[process].log().contains(words)).await;
    }

    /// How many messages the stream takes; as many as come if negative.
    async fn stream_takes(&self, max_messages: i64) {
        let context = jetstream::new(self.nats().await);
        let stream = context.get_stream(OUTLET.stream_of(SHARD)).await.unwrap();
        let config = stream.cached_info().config.clone();
        context.update_stream(jetstream::stream::Config { max_messages, ..config }).await.unwrap();
    }

    async fn execute_sql(&self, statements: &str) {
        sqlx::raw_sql(statements).execute(&self.pool).await.unwrap();
    }
}

#[tokio::test]
async fn a_full_stream_is_waited_for() {
    let fault = owns("stream-full");
    let world = World::with_processes(&["api,relay", "project"]).await;
    world.append_events(3).await;
    world.assert_published().await;
    world.stream_takes(5).await;
    fault.fired(1);
    world.append_events(4).await;
    world.says(0, "position 6 was not stored: maximum messages exceeded").await;
    let told = world.tells(0, "stalled", "position 6 was not stored: maximum messages exceeded").await;
    assert!(told.contains("the relay retries"), "{told}");
    let (code, report) = world.doctor().await;
    assert!(report.contains("active since") && !report.contains("none runs"), "{code:?} {report}");
    assert_eq!(world.end_of_stream(SHARD).await, 5, "nothing old goes for it");
    world.stream_takes(-1).await;
    world.assert_published().await;
    fault.healed();
    world.close().await;
}

/// It was appended when the server took more. What comes later is not appended.
#[tokio::test]
async fn an_event_that_is_too_large_for_the_server_stops_the_relay() {
    let fault = owns("event-too-large");
    let mut world = World::with_processes(&["api,relay", "project"]).await;
    world.append_events(1).await;
    world.assert_published().await;
    world.servers.nats.kill().await;
    fault.fired(1);
    let large = || NewEvent { data: format!(r#""{}""#, "x".repeat(60_000)), ..event("tested") };
    append_committed(&world, SHARD, &[large(), event("tested")]).await;
    let config = world.folder().join("small.conf");
    fs::write(&config, "max_payload: 32768\n").unwrap();
    let arguments = vec!["-c".to_owned(), config.to_str().unwrap().to_owned()];
    world.servers.nats.restart_with(Setup { arguments, ..Setup::default() }).await.unwrap();
    let reason = world.halted().await;
    assert!(reason.contains("position 2 is too large for the server, which takes 32768 bytes"), "{reason}");
    wait_until("the limit is noted", SOON, async || {
        let noted = sqlx::query_scalar("SELECT max_payload FROM outbox_limits").fetch_one(&world.pool);
        noted.await.unwrap_or(0i32) == 32_768
    })
    .await;
    let mut transaction = world.pool.begin().await.unwrap();
    let refused = append(&mut transaction, SHARD, &[large()]).await;
    match refused {
        Err(AppendError::Refused(reason)) => assert_eq!(reason, "outbox_event_fits_a_message"),
        other => panic!("{other:?}"),
    }
    drop(transaction);
    world.servers.nats.restart_with(Setup::default()).await.unwrap();
    world.assert_published().await;
    fault.healed();
    world.close().await;
}

/// Those behind it are stored, since they find the sequence that they expect.
#[tokio::test]
async fn a_message_in_the_place_of_an_event_is_named_by_the_audit() {
    let mut world = World::with_processes(&["api", "relay", "project"]).await;
    world.append_events(3).await;
    world.balanced().await;
    let mut transaction = world.pool.begin().await.unwrap();
    append(&mut transaction, SHARD, &[event("tested"), event("tested")]).await.unwrap();
    world.publish_at(4, "a-stranger", "{}").await;
    transaction.commit().await.unwrap();
    wait_until("the audit names it", SOON, async || {
        let audited = world.coupon(&["audit", "--full"]).await;
        audited.code == Some(1) && audited.out.contains("position 4 ") && audited.out.contains("a-stranger")
    })
    .await;

    for process in [1, 2] {
        world.processes[process].kill(); // nobody makes the stream again while it is being deleted
    }
    jetstream::new(world.nats().await).delete_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    for process in [1, 2] {
        world.processes[process].start().await;
    }
    world.assert_published().await;
    world.close().await;
}

/// Whoever may write into the stream can write any epoch into a header.
#[tokio::test]
async fn a_foreign_message_is_passed_over_in_every_epoch() {
    let world = World::with_processes(&["api,relay", "project"]).await;
    let jetstream = jetstream::new(world.nats().await);
    for epoch in [0, 1] {
        world.append_events(2).await;
        world.passed().await;
        for named in [None, Some("9"), Some("x")] {
            let mut headers = async_nats::HeaderMap::new();
            if let Some(named) = named {
                headers.insert(EPOCH_HEADER, named);
            }
            let published = jetstream.publish_with_headers("coupons.tested.K.0", headers, "{}".into());
            published.await.unwrap().await.unwrap();
        }
        let passed_over =
            async || world.processes[1].log().matches("is not an event").count() == 3 * (epoch + 1);
        wait_until("the projector passes over all three", SOON, passed_over).await;
        world.append_events(1).await;
        world.halted().await;
        let begun = world.coupon(&["relay", "epoch", "new", "--yes"]).await;
        assert_eq!(begun.code, Some(0), "{begun:?}");
        world.passed().await;
    }
    let log = world.processes[1].log();
    assert!(log.matches("a new epoch has begun").count() <= 2, "{log}");
    world.close().await;
}

#[tokio::test]
async fn a_hole_in_the_outbox_stops_the_relay() {
    let fault = owns("outbox-row-lost");
    let mut world = World::with_processes(&["api,relay", "project"]).await;
    world.append_events(3).await;
    world.assert_published().await;
    world.processes[0].kill();
    world.append_events(3).await;
    world.execute_sql("CREATE TABLE kept AS SELECT * FROM outbox WHERE position = 5").await;
    fault.fired(1);
    world.execute_sql("DELETE FROM outbox WHERE position = 5").await;
    world.processes[0].start().await;
    let reason = world.halted().await;
    assert!(reason.contains("position 5 is missing from the outbox"), "{reason}");
    let refused = world.coupon(&["relay", "epoch", "new", "--yes"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    world.execute_sql("INSERT INTO outbox SELECT * FROM kept").await;
    world.assert_published().await;
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn an_epoch_that_is_lost_with_its_stream_is_followed_by_another() {
    let world = World::with_processes(&["api,relay", "project"]).await;
    world.append_events(3).await;
    world.assert_published().await;
    world.publish_at(4, "a-stranger", "{}").await;
    world.append_events(1).await;
    world.halted().await;
    let begun = world.begin_epoch().await;
    assert_eq!((&begun["epoch"], &begun["first_sequence"]), (&json!(1), &json!(5)));
    wait_until("all is published", SOON, async || world.end_of_stream(SHARD).await == 5).await;
    world.balanced().await;

    jetstream::new(world.nats().await).delete_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    // Readiness may tell of the first halt for a moment.
    let halted = async || world.halted().await.contains("before the epoch that began at 5");
    wait_until("the relay halts again", SOON, halted).await;
    let begun = world.begin_epoch().await;
    assert_eq!(
        (&begun["epoch"], &begun["first_position"], &begun["first_sequence"]),
        (&json!(2), &json!(1), &json!(1))
    );
    world.append_events(2).await;
    wait_until("all is published", SOON, async || world.end_of_stream(SHARD).await == 6).await;
    world.close().await;
}

/// Nobody ends its sessions but the server, which has not heard of it for ten seconds.
#[tokio::test]
async fn a_process_that_is_frozen_loses_its_place_and_adds_nothing_when_it_wakes() {
    let fault = owns("relay-frozen");
    let mut world = World::with_processes(&["api", "relay,project"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 100 })).await;
    world.balanced().await;
    let leaders =
        [world.leader("outbox_relay", SHARD).await, world.leader("projector_projections", SHARD).await];
    world.add_process("relay,project").await;
    world.processes[1].freeze();
    fault.fired(1);
    world.answered(&world.rush(campaign, 100).run().await).await;
    world.balanced().await;
    for (class, leader) in ["outbox_relay", "projector_projections"].into_iter().zip(leaders) {
        assert_ne!(world.leader(class, SHARD).await, leader);
    }
    world.processes[1].thaw();
    world.says(1, "relay starts over").await;
    world.says(1, "projector starts over").await;
    world.append_events(10).await;
    world.assert_published().await;
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_durable_consumer_that_is_deleted_is_made_again() {
    let fault = owns("consumer-deleted");
    let world = World::with_processes(&["api,relay", "project"]).await;
    let context = jetstream::new(world.nats().await);
    for _ in 0..2 {
        world.append_events(10).await;
        world.balanced().await;
        // The server may fail to remove files that it writes at that moment.
        wait_until("the consumer is deleted", SOON, async || {
            context.delete_consumer_from_stream("projections", OUTLET.stream_of(SHARD)).await.is_ok()
        })
        .await;
        fault.fired(1);
    }
    world.append_events(10).await;
    fault.healed();
    world.close().await;
}

/// As one whose leader is a replica that lags: it answers, and gives nothing. Here, because its filter was changed.
#[tokio::test]
async fn a_durable_consumer_that_gives_nothing_is_made_again() {
    let fault = owns("consumer-mute");
    let world = World::with_processes(&["api,relay", "project"]).await;
    world.append_events(10).await;
    world.balanced().await;
    let stream = jetstream::new(world.nats().await).get_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    let consumer: PullConsumer = stream.get_consumer("projections").await.unwrap();
    let config = pull::Config::try_from_consumer_config(consumer.cached_info().config.clone()).unwrap();
    let mute = pull::Config { filter_subject: "coupons.none.*.0".to_owned(), ..config };
    stream.update_consumer(mute).await.unwrap();
    fault.fired(1);
    world.append_events(10).await;
    let told = async || world.processes[1].log().contains("the consumer delivered nothing after position");
    wait_until("a consumer that gives nothing is told", SOON, told).await;
    world.append_events(10).await;
    fault.healed();
    world.close().await;
}
