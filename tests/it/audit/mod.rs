//! The balance sheet: whatever is taken away, added or changed anywhere is found and named. The
//! tests of this file change the stream.

mod apart;
mod changes;
mod legs;
mod rows;
mod rush;
mod scene;
mod seats;
mod verdicts;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use coupon_dispatcher::event::OUTLET;
use outbox_relay::Shard;
use serde_json::{Value, json};

pub(crate) use self::scene::Scene;
use crate::support::{SOON, World, wait_until};

const SHARD: Shard = Shard(0);
const QUICK: &[&str] = &["audit"];
const FULL: &[&str] = &["audit", "--full"];

#[tokio::test]
async fn a_message_that_is_missing_or_another_is_named() {
    let mut scene = Scene::start().await;
    let context = jetstream::new(scene.world.nats().await);
    let events = scene.world.outbox(SHARD).await;
    let event = events.iter().find(|event| event.subject == scene.coupon.to_string()).unwrap();

    let stream = context.get_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    stream.delete_message(event.position.unsigned_abs()).await.unwrap();
    scene.assert_named(QUICK, &[&scene.campaign.to_string(), "stream: 19 issued events, 20 expected"]).await;
    let other = scene.other.to_string();
    let of_shard = ["audit", "--campaign", &other];
    scene.assert_named(&of_shard, &["1 messages are missing from stream COUPONS-0"]).await;
    let position = format!("position {} ", event.position);
    scene.assert_named(FULL, &[&position, &event.id.to_string()]).await;
    scene.remake_stream().await;
    scene.assert_balanced(FULL).await;

    // Somebody writes what the relay should have written.
    scene.world.processes[2].kill();
    assert_eq!(scene.world.claim(scene.campaign, "the-last").await.status, 201);
    let events = scene.world.outbox(SHARD).await;
    let last = events.last().unwrap();
    let subject = OUTLET.subject(&last.kind, &last.key, SHARD);
    let stranger = PublishMessage::build().message_id("a-stranger").payload(last.body(&OUTLET));
    context.send_publish(subject, stranger).await.unwrap().await.unwrap();
    let applied = "the stranger is applied"; // it has the right body
    wait_until(applied, SOON, async || scene.world.coupon(QUICK).await.code == Some(0)).await;
    let position = format!("position {} ", last.position);
    scene.assert_named(FULL, &[&position, &last.id.to_string(), "a-stranger"]).await;
    scene.world.processes[2].start().await;
    scene.remake_stream().await;

    // And what nobody should write.
    scene.world.processes[2].kill();
    let stranger = PublishMessage::build().message_id("a-stranger").payload(last.body(&OUTLET));
    context.send_publish("coupons.tested.K.0", stranger).await.unwrap().await.unwrap();
    let (end, head) = (last.position + 1, last.position);
    let ends = format!("stream COUPONS-0 ends at {end}, the outbox at {head}");
    scene.assert_named(QUICK, &[&ends]).await;
    scene.assert_named(FULL, &[&format!("stream COUPONS-0 has a-stranger at {end}")]).await;
    scene.world.processes[1].kill();
    forget_position(&scene.world, end).await;
    scene.remake_stream_without_relay().await;
    scene.world.processes[1].start().await;
    scene.world.close().await;
}

/// A gap on either side does not end the comparison.
#[tokio::test]
async fn the_first_difference_is_named_and_all_are_counted() {
    let mut scene = Scene::start().await;
    let context = jetstream::new(scene.world.nats().await);
    let events = scene.world.outbox(SHARD).await;
    let compared = async |scene: &Scene| {
        let finished = scene.world.coupon(&["audit", "--full", "--json"]).await;
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let said: Value = serde_json::from_str(&finished.out).unwrap();
        said["sheet"]["shards"][0]["compared"].clone()
    };
    let stream = context.get_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    for position in [3, 7, events.len() as u64] {
        stream.delete_message(position).await.unwrap();
    }
    let first = format!("position 3 is event {} in the outbox; stream COUPONS-0 goes on with", events[2].id);
    scene.assert_named(FULL, &[&first]).await;
    let row = scene.take("outbox", "position = 5").await;
    let totals = json!({
        "events": events.len() - 4, "missing_from_stream": 3, "more_in_stream": 1, "different": 0,
    });
    assert_eq!(compared(&scene).await, totals);
    scene.put(row).await;

    // Without its beginning; then with nothing at all. A draft has nothing that could differ.
    let draft = scene.world.create_campaign(json!({})).await.to_string();
    for kept in [events.len() as u64 - 9, 0] {
        let purge = stream.purge().sequence(events.len() as u64 + 1 - kept);
        purge.await.unwrap();
        let first = format!("position 1 is event {} in the outbox", events[0].id);
        scene.assert_named(FULL, &[&first]).await;
        let counted = compared(&scene).await;
        assert_eq!(counted["missing_from_stream"], json!(events.len() as u64 - kept.saturating_sub(1)));
        let missing = format!("{} messages are missing", counted["missing_from_stream"]);
        scene.assert_named(&["audit", "--campaign", &draft], &[&missing]).await;
    }
    scene.remake_stream().await;
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}

/// As when the oldest events are past retention: what the stream lacks of those counts no more.
#[tokio::test]
async fn only_messages_of_what_the_outbox_holds_are_missing() {
    let mut scene = Scene::start().await;
    let change = async |scene: &Scene, statements: &str| {
        sqlx::raw_sql(statements).execute(&scene.world.pool).await.unwrap();
    };
    change(
        &scene,
        "CREATE TABLE kept AS SELECT * FROM outbox WHERE position <= 12; DELETE FROM outbox WHERE position <= 12",
    )
    .await;
    let context = jetstream::new(scene.world.nats().await);
    let stream = context.get_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    for position in [3, 4, 12] {
        stream.delete_message(position).await.unwrap();
    }
    scene.assert_balanced(QUICK).await;
    for position in [13, 20] {
        stream.delete_message(position).await.unwrap();
    }
    scene.assert_named(QUICK, &["2 messages are missing from stream COUPONS-0"]).await;
    change(&scene, "INSERT INTO outbox SELECT * FROM kept; DROP TABLE kept").await;
    scene.assert_named(&["audit", "--campaign", &scene.other.to_string()], &["5 messages are missing"]).await;
    scene.remake_stream().await;
    scene.world.close().await;
}

#[tokio::test]
async fn a_message_with_another_subject_or_body_is_named() {
    let mut scene = Scene::start().await;
    let another = scene.world.open_campaign(json!({})).await;
    scene.world.balanced().await;
    for (what, spaces, exchanged) in [("has another body", " ", false), ("belongs on", "", true)] {
        scene.world.processes[2].kill();
        let mut messages = Vec::new();
        for campaign in [scene.campaign, another] {
            assert_eq!(scene.world.claim(campaign, what.split(' ').next().unwrap()).await.status, 201);
            let mut event = scene.world.outbox(SHARD).await.pop().unwrap();
            event.data = event.data.replace("\":", &format!("\":{spaces}")); // the same to every reader
            let message =
                PublishMessage::build().message_id(event.id.to_string()).payload(event.body(&OUTLET));
            messages.push((OUTLET.subject(&event.kind, &event.key, SHARD), message, event));
        }
        let first = messages[0].2.clone();
        let mut subjects: Vec<String> = messages.iter().map(|(subject, ..)| subject.clone()).collect();
        if exchanged {
            subjects.reverse(); // the counts agree
        }
        let context = jetstream::new(scene.world.nats().await);
        for (subject, (_, message, _)) in subjects.into_iter().zip(messages) {
            context.send_publish(subject, message).await.unwrap().await.unwrap();
        }
        let balanced = async || scene.world.coupon(QUICK).await.code == Some(0);
        wait_until("the counts agree", SOON, balanced).await;
        let position = format!("position {},", first.position);
        scene.assert_named(FULL, &[&position, &first.id.to_string(), what]).await;
        scene.world.processes[2].start().await;
        scene.remake_stream().await;
    }
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}

/// The projections have applied what the stranger wrote.
async fn forget_position(world: &World, position: i64) {
    sqlx::query("DELETE FROM projection_positions WHERE position = $1")
        .bind(position)
        .execute(&world.pool)
        .await
        .unwrap();
}

impl Scene {
    async fn remake_stream_without_relay(&mut self) {
        jetstream::new(self.world.nats().await).delete_stream(OUTLET.stream_of(SHARD)).await.unwrap();
        self.world.processes[2].start().await;
    }
}
