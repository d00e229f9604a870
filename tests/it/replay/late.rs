//! What a process that was given up still sends is refused, or is what was to come anyway.

use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::{self, Message};
use coupon_dispatcher::event::OUTLET;
use outbox_relay::{Shard, stream};
use rustix::process::Signal;

use super::{STREAM, replay, sold_out};
use crate::support::{SOON, World, owns, wait_until};

impl World {
    /// Sends these messages once more, without a message id, so that no memory of ids helps. Nobody
    /// takes one.
    async fn assert_late(&self, messages: &[Message]) {
        let context = jetstream::new(self.nats().await);
        for message in messages {
            let mut headers = message.headers.clone().unwrap();
            headers.insert(NATS_MESSAGE_ID, "");
            let subject = message.subject.to_string();
            let sent = context.publish_with_headers(subject, headers, message.payload.clone()).await;
            let answer = sent.unwrap().await;
            assert!(answer.is_err(), "{} is stored again: {answer:?}", message.subject);
        }
    }
}

#[tokio::test]
async fn a_late_copy_is_refused_whoever_else_has_written() {
    let (world, _) = sold_out().await;
    let events = world.all_events().await;
    replay(&world, "given-up", &["--all"]).await;
    let messages = world.replayed("given-up").await;
    world.assert_late(&messages).await;
    world.assert_whole("given-up", &events).await;

    // Another takes the place of its first message: the second finds the sequence that it expects.
    jetstream::new(world.nats().await).delete_stream(STREAM).await.unwrap();
    replay(&world, "other", &["--to", "1", "--campaign", &events[0].key]).await;
    world.assert_late(&messages).await;
    assert_eq!(world.count_replayed("given-up").await, 0);
    world.close().await;
}

#[tokio::test]
async fn what_is_on_its_way_when_a_run_is_cancelled_is_refused() {
    let (world, _) = sold_out().await;
    replay(&world, "unwanted", &["--all"]).await;
    let messages = world.replayed("unwanted").await;
    // As if it had been killed when the first twenty were there.
    let context = jetstream::new(world.nats().await);
    context.delete_stream(STREAM).await.unwrap();
    stream::of_replays(&world.nats().await, &OUTLET).await.unwrap();
    for message in &messages[..20] {
        let (subject, headers) = (message.subject.to_string(), message.headers.clone().unwrap());
        let sent = context.publish_with_headers(subject, headers, message.payload.clone()).await;
        sent.unwrap().await.unwrap();
    }
    let cancelled = world.coupon(&["replay", "--cancel", "unwanted", "--yes"]).await;
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    assert!(cancelled.out.contains("20 messages are removed"), "{cancelled:?}");
    world.assert_late(&messages[20..]).await;
    world.assert_late(&messages).await;
    assert_eq!(world.count_replayed("unwanted").await, 0);
    world.close().await;
}

#[tokio::test]
async fn a_process_that_was_frozen_and_lost_its_place_adds_nothing() {
    let fault = owns("replay-frozen");
    let (world, _) = sold_out().await;
    let events = world.all_events().await;
    // With hardly a memory of ids: it is not to help.
    let nats = world.nats().await;
    let mut config = stream::of_replays(&nats, &OUTLET).await.unwrap().cached_info().config.clone();
    config.duplicate_window = Duration::from_millis(100);
    jetstream::new(nats).update_stream(config).await.unwrap();
    let frozen = world.started("frozen", "100").await;
    frozen.signal(Signal::STOP);
    fault.fired(1);
    let pid = world.leader("outbox_replay", Shard(0)).await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&world.pool).await.unwrap();
    let free = async || world.try_leader("outbox_replay", Shard(0)).await.is_none();
    wait_until("its place is free", SOON, free).await;
    world.resume("frozen").await;
    replay(&world, "next", &["--to", "5"]).await;
    frozen.signal(Signal::CONT);
    let finished = frozen.finished().await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.err.contains("--resume frozen"), "{finished:?}");
    world.assert_whole("frozen", &events).await;
    assert_eq!(world.count_replayed("next").await, 10);
    fault.healed();
    world.close().await;
}
