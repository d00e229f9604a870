//! Another service, in another language: `examples/subscriber.py`.

use std::collections::BTreeSet;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::{self, stream};
use coupon_dispatcher::event::OUTLET;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use outbox_relay::Shard;
use rand::RngExt as _;
use serde_json::json;
use ulid::Ulid;

use crate::support::subscriber::{coupons, ended_after, issued, sqlite, subscriber, until};
use crate::support::{Process, SOON, World, seeded, wait_until};

#[tokio::test]
async fn a_subscriber_that_is_killed_applies_every_event_once() {
    let mut world = World::with_processes(&["api", "relay", "project"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 2_000 })).await;
    let database = world.folder().join("loyalty.db");
    let mut subscriber = subscriber(&world, &["COUPONS-0", "loyalty", database.to_str().unwrap()]);
    subscriber.launch();
    let rush = tokio::spawn(world.rush(campaign, 2_000).run());
    for count in [100, 400] {
        applied(&mut subscriber, count).await;
        subscriber.kill();
        subscriber.launch();
    }
    applied(&mut subscriber, 700).await;
    world.servers.nats.kill().await;
    world.servers.nats.start().await.unwrap();
    applied(&mut subscriber, 1_000).await;
    subscriber.kill();
    world.answered(&rush.await.unwrap()).await;

    // All that it has acknowledged comes once more, from the beginning, and then something new.
    let other = world.open_campaign(json!({})).await;
    world.claim(other, "alice").await;
    world.assert_published().await;
    sqlite(&database, "UPDATE positions SET sequence = NULL").await;
    until(&mut subscriber, world.head(Shard(0)).await).await;
    assert!(lines(&subscriber, "skipped ") >= 1_000, "{}", subscriber.log());
    assert_eq!(coupons(&database).await, issued(&world).await);
    world.close().await;
}

#[tokio::test]
async fn a_subscriber_of_one_type_needs_no_other() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 20 })).await;
    let other = world.open_campaign(json!({})).await;
    for n in 0..20 {
        world.claim(campaign, &format!("user-{n}")).await;
        world.claim(other, "one").await;
    }
    world.assert_published().await;
    let database = world.folder().join("issued.db");
    let subject = format!("coupons.issued.{campaign}.0");
    let arguments = ["COUPONS-0", "issued", database.to_str().unwrap(), "--filter", subject.as_str()];
    let events = world.outbox(Shard(0)).await;
    let last = events
        .iter()
        .rfind(|event| subject == OUTLET.subject(&event.kind, &event.key, event.shard))
        .unwrap()
        .position;
    let mut expected = issued(&world).await;
    expected.retain(|_, user| user != "one");
    assert_eq!(expected.len(), 20);
    until(&mut subscriber(&world, &arguments), last).await;
    assert_eq!(coupons(&database).await, expected);
    world.close().await;
}

/// Without its position an event has no effect.
#[tokio::test]
async fn a_subscriber_keeps_effect_and_position_together() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    world.claim(campaign, "alice").await;
    world.claim(campaign, "bob").await;
    world.assert_published().await;
    let database = world.folder().join("both.db");
    let arguments = ["COUPONS-0", "both", database.to_str().unwrap()];
    let head = world.head(Shard(0)).await;
    until(&mut subscriber(&world, &arguments), head - 1).await;
    let full = format!("SELECT RAISE(ABORT, 'full') WHERE NEW.position = {head}");
    sqlite(&database, &format!("CREATE TRIGGER full BEFORE INSERT ON positions BEGIN {full}; END")).await;
    let mut failing = subscriber(&world, &arguments);
    failing.launch();
    assert_eq!(failing.ended().await.code(), Some(1), "{}", failing.log());
    assert!(failing.log().contains("full"), "{}", failing.log());
    let users: Vec<_> = coupons(&database).await.into_values().collect();
    assert_eq!(users, ["alice"]);
    sqlite(&database, "DROP TRIGGER full").await;
    until(&mut subscriber(&world, &arguments), head).await;
    assert_eq!(coupons(&database).await, issued(&world).await);
    world.close().await;
}

/// Shard and position are taken from the headers: an event may come twice, and a new epoch counts
/// anew, but nothing may be left out.
#[tokio::test]
async fn a_subscriber_stops_at_a_gap_and_follows_an_epoch() {
    let world = World::with_processes(&[]).await;
    let context = stream(&world, "T-0").await;
    let mut ids: Vec<_> = (0..7).map(|_| Ulid::generate()).collect();
    ids.sort();
    let told = [
        (None, 5, ids[0]), // the first that is still there
        (None, 6, ids[1]),
        (None, 6, ids[1]),
        (None, 5, ids[0]),
        (None, 7, ids[2]),
        (Some(1), 6, ids[1]), // restored to an earlier time: 6 once more, and another 7
        (Some(1), 7, ids[3]),
        (Some(1), 8, ids[4]),
        (None, 8, ids[5]), // from the earlier epoch, late
        (Some(1), 10, ids[6]),
    ];
    for (epoch, position, id) in told {
        tell(&context, "T-0", epoch, position, id).await.await.unwrap();
    }
    let database = world.folder().join("t.db");
    let mut subscriber = subscriber(&world, &["T-0", "t", database.to_str().unwrap()]);
    subscriber.launch();
    assert_eq!(subscriber.ended().await.code(), Some(1), "{}", subscriber.log());
    assert!(subscriber.log().contains("gap: 10 comes after 8"), "{}", subscriber.log());
    assert_eq!(
        (lines(&subscriber, "applied "), lines(&subscriber, "skipped ")),
        (6, 3),
        "{}",
        subscriber.log()
    );
    let applied: Vec<_> = coupons(&database).await.into_keys().collect();
    assert_eq!(applied, ids[..5]);
    world.close().await;
}

/// Killed at random moments, with many events in flight.
#[tokio::test]
async fn a_subscriber_that_is_killed_at_random_applies_every_event_once() {
    const EVENTS: i64 = 60_000; // seconds of work
    let (_, mut random) = seeded();
    let world = World::with_processes(&[]).await;
    let context = stream(&world, "T-0").await;
    let mut told = Vec::new();
    let mut ids = BTreeSet::new();
    for position in 1..=EVENTS {
        let id = Ulid::generate();
        ids.insert(id);
        told.push(tell(&context, "T-0", None, position, id).await);
        if told.len() == 1_000 {
            try_join_all(told.drain(..).map(PublishAckFuture::into_future)).await.unwrap();
        }
    }
    let database = world.folder().join("t.db");
    let arguments = ["T-0", "t", database.to_str().unwrap()];
    // A kill that comes before it has applied anything, or after it has applied all, is none at work.
    let (mut kills_at_work, mut longest) = (0, 0.8);
    while kills_at_work < 8 {
        let seconds = format!("{:.3}", random.random_range(0.3..longest));
        longest += 0.1;
        let mut killed = ended_after(&world, "KILL", &seconds, &arguments);
        killed.launch();
        assert_eq!(killed.ended().await.code(), Some(137), "{}", killed.log());
        let count = lines(&killed, "applied ");
        if count >= ids.len() {
            break;
        }
        kills_at_work += usize::from(count > 0);
    }
    assert!(kills_at_work >= 2, "it was killed {kills_at_work} times at work");
    until(&mut subscriber(&world, &arguments), EVENTS).await;
    let applied: BTreeSet<_> = coupons(&database).await.into_keys().collect();
    assert_eq!(applied.len(), ids.len());
    assert_eq!(applied, ids);
    world.close().await;
}

/// Messages of somebody else, also before an epoch that an operator has begun because of them.
#[tokio::test]
async fn a_subscriber_passes_over_foreign_messages() {
    let world = World::with_processes(&[]).await;
    let database = world.folder().join("t.db");
    let mut subscriber = subscriber(&world, &["T-0", "t", database.to_str().unwrap(), "--until=4"]);
    subscriber.launch();
    wait_until("the reason is told", SOON, async || subscriber.log().contains("stream not found")).await;
    let context = stream(&world, "T-0").await;
    let ids: Vec<_> = (0..4).map(|_| Ulid::generate()).collect();
    let mut numbered = HeaderMap::new();
    numbered.insert("Outbox-Position", "seven");
    let mut bodiless = HeaderMap::new();
    bodiless.insert("Outbox-Position", "2");
    let nothing = HeaderMap::new();
    context.publish_with_headers("T-0", nothing, "{}".into()).await.unwrap().await.unwrap();
    tell(&context, "T-0", None, 1, ids[0]).await.await.unwrap();
    for (headers, body) in [(HeaderMap::new(), ""), (numbered, "{}"), (bodiless, "[")] {
        context.publish_with_headers("T-0", headers, body.into()).await.unwrap().await.unwrap();
    }
    for (position, id) in (2..).zip(&ids[1..]) {
        tell(&context, "T-0", Some(1), position, *id).await.await.unwrap();
    }
    wait_until("the subscriber is done", SOON, async || !subscriber.runs()).await;
    assert_eq!(subscriber.ended().await.code(), Some(0), "{}", subscriber.log());
    assert_eq!(lines(&subscriber, "ignored "), 4, "{}", subscriber.log());
    let mut applied: Vec<_> = coupons(&database).await.into_keys().collect();
    applied.sort();
    assert_eq!(applied, {
        let mut ids = ids;
        ids.sort();
        ids
    });
    world.close().await;
}

/// A database that was lost, and one with several shards.
#[tokio::test]
async fn a_subscriber_skips_nothing_that_its_database_does_not_have() {
    let world = World::with_processes(&[]).await;
    let mut ids = BTreeSet::new();
    for (name, count) in [("T-0", 30), ("T-1", 20)] {
        let context = stream(&world, name).await;
        for position in 1..=count {
            let id = Ulid::generate();
            ids.insert(id);
            tell(&context, name, None, position, id).await.await.unwrap();
        }
    }
    for database in ["first.db", "second.db"] {
        let database = world.folder().join(database);
        for (name, last) in [("T-0", 30), ("T-1", 20)] {
            until(&mut subscriber(&world, &[name, "t", database.to_str().unwrap()]), last).await;
        }
        let applied: BTreeSet<_> = coupons(&database).await.into_keys().collect();
        assert_eq!(applied, ids);
    }
    let empty = world.folder().join("third.db");
    let context = jetstream::new(world.nats().await);
    for (max_ack_pending, why) in [(2, "must have max_ack_pending 1"), (1, "has delivered events")] {
        let name = format!("bound-{max_ack_pending}");
        let config = pull::Config { durable_name: Some(name.clone()), max_ack_pending, ..Default::default() };
        let consumer = context.create_consumer_on_stream(config, "T-0").await.unwrap();
        let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
        messages.next().await.unwrap().unwrap().double_ack().await.unwrap();
        let mut bound = subscriber(&world, &["T-0", &name, empty.to_str().unwrap(), "--bind"]);
        bound.launch();
        assert_eq!(bound.ended().await.code(), Some(1), "{}", bound.log());
        assert!(bound.log().contains(why), "{}", bound.log());
    }
    world.close().await;
}

/// By the commands that it prints.
#[tokio::test]
async fn a_subscriber_fetches_a_gap_from_a_replay() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    for n in 0..29 {
        world.claim(campaign, &format!("user-{n}")).await;
    }
    world.assert_published().await;
    let database = world.folder().join("loyalty.db");
    let arguments = ["COUPONS-0", "loyalty", database.to_str().unwrap()];
    until(&mut subscriber(&world, &arguments), 10).await;
    let context = jetstream::new(world.nats().await);
    let stream = context.get_stream("COUPONS-0").await.unwrap();
    stream.purge().sequence(20).await.unwrap();
    for _ in 0..2 {
        let mut stopped = subscriber(&world, &arguments);
        stopped.launch();
        assert_eq!(stopped.ended().await.code(), Some(1), "{}", stopped.log());
        let log = stopped.log();
        assert!(log.contains("gap: 20 comes after 10 (epoch 0 after 0)"), "{log}");
        assert_eq!(coupons(&database).await.len(), 9);
    }
    let log = world.folder().join("subscriber.log");
    let printed = std::fs::read_to_string(log).unwrap();
    let mut commands = printed.lines().rev().filter_map(|line| line.strip_prefix("  ")).take(2);
    let (read, replay) = (commands.next().unwrap(), commands.next().unwrap());
    let replay: Vec<_> = replay.split(' ').collect();
    assert_eq!(replay[0], "coupon");
    assert_eq!(world.coupon(&replay[1..]).await.code, Some(0));
    let read: Vec<_> = read.split(' ').skip(2).collect();
    let mut reader = subscriber(&world, &read);
    reader.launch();
    assert_eq!(reader.ended().await.code(), Some(0), "{}", reader.log());
    world.claim(campaign, "one-more").await;
    wait_until("it is published", SOON, async || world.end_of_stream(Shard(0)).await >= 31).await;
    until(&mut subscriber(&world, &arguments), 31).await;
    assert_eq!(coupons(&database).await, issued(&world).await);

    // The relay recreates what is missing now from the outbox, at the same sequences.
    context.delete_stream("COUPONS-0").await.unwrap();
    world.claim(campaign, "last").await;
    world.assert_published().await;
    until(&mut subscriber(&world, &arguments), 32).await;
    assert_eq!(coupons(&database).await, issued(&world).await);
    world.close().await;
}

/// While it loads its modules, and at work. (Python itself prints a trace before it reads the first line, "line 0".)
#[tokio::test]
async fn a_subscriber_ends_at_ctrl_c_without_a_trace() {
    let world = World::start().await;
    let database = world.folder().join("loyalty.db");
    let arguments = ["COUPONS-0", "loyalty", database.to_str().unwrap()];
    let mut log = String::new();
    for tenths in 1..30 {
        let seconds = format!("{}.{}", tenths / 10, tenths % 10);
        let mut interrupted = ended_after(&world, "INT", &seconds, &arguments);
        interrupted.launch();
        assert_eq!(interrupted.ended().await.code(), Some(124), "{}", interrupted.log());
        log = interrupted.log();
        // Before its first line has run, Python itself may still print one.
        let ours = |line: &&str| line.contains("subscriber.py\", line ") && !line.contains("line 0,");
        let traced = log.lines().find(ours).filter(|_| !log.contains("    import signal\n"));
        assert_eq!(traced, None, "{log}");
        if log.contains("starting after") {
            break;
        }
    }
    assert!(log.contains("starting after"), "it was never at work");
    world.close().await;
}

/// A stream of this name and one subject, the same, which no relay writes.
async fn stream(world: &World, name: &str) -> jetstream::Context {
    let context = jetstream::new(world.nats().await);
    let config = stream::Config { name: name.into(), subjects: vec![name.into()], ..Default::default() };
    context.create_stream(config).await.unwrap();
    context
}

/// Publishes an event of a coupon. What is returned is its acknowledgement.
async fn tell(
    context: &jetstream::Context,
    subject: &str,
    epoch: Option<i32>,
    position: i64,
    id: Ulid,
) -> PublishAckFuture {
    let mut headers = HeaderMap::new();
    headers.insert("Outbox-Shard", "0");
    headers.insert("Outbox-Position", position.to_string());
    if let Some(epoch) = epoch {
        headers.insert("Outbox-Epoch", epoch.to_string());
    }
    let data = json!({ "coupon_id": id, "user_id": "alice" });
    let body = json!({ "id": id, "type": "coupon.issued.v1", "data": data }).to_string();
    context.publish_with_headers(subject.to_owned(), headers, body.into()).await.unwrap()
}

/// Waits until it has applied so many.
async fn applied(subscriber: &mut Process, count: usize) {
    wait_until("the subscriber applies events", SOON, async || {
        assert!(subscriber.runs(), "it ended:\n{}", subscriber.log());
        lines(subscriber, "applied ") >= count
    })
    .await;
}

fn lines(subscriber: &Process, word: &str) -> usize {
    subscriber.log().lines().filter(|line| line.starts_with(word)).count()
}
