//! Another service, in another language: `examples/subscriber.py`.

use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream};
use coupon_dispatcher::event::OUTLET;
use outbox_relay::Shard;
use serde_json::json;
use ulid::Ulid;

use crate::support::subscriber::{coupons, issued, sqlite, subscriber, until};
use crate::support::{Process, SOON, World, wait_until};

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

    // All that it has acknowledged comes once more, from the beginning.
    world.assert_published().await;
    let context = jetstream::new(world.nats().await);
    context.delete_consumer_from_stream("loyalty", "COUPONS-0").await.unwrap();
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
    let context = jetstream::new(world.nats().await);
    let config = stream::Config { name: "T".into(), subjects: vec!["t".into()], ..Default::default() };
    context.create_stream(config).await.unwrap();
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
        let mut headers = HeaderMap::new();
        headers.insert("Outbox-Shard", "0");
        headers.insert("Outbox-Position", position.to_string());
        if let Some(epoch) = epoch {
            headers.insert("Outbox-Epoch", epoch.to_string());
        }
        let data = json!({ "coupon_id": id, "user_id": "alice" });
        let body = json!({ "id": id, "type": "coupon.issued.v1", "data": data }).to_string();
        context.client().request_with_headers("t", headers, body.into()).await.unwrap();
    }
    let database = world.folder().join("t.db");
    let mut subscriber = subscriber(&world, &["T", "t", database.to_str().unwrap()]);
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
