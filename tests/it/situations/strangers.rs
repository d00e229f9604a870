//! What somebody else has written into the stream.

use super::SHARD;
use super::outsider::Outsider;
use crate::outbox::event;
use crate::support::{Nats, Process, SOON, World, owns, wait_until};
use coupon_dispatcher::event::{ISSUED_V1, OUTLET};
use outbox_relay::append;
use serde_json::json;
use std::slice;
use ulid::Ulid;

/// What looks like an event: a coupon that nobody issued.
fn forged() -> String {
    let time = "2026-01-01T00:00:00Z";
    let data = json!({
        "coupon_id": Ulid::generate(), "campaign_id": Ulid::generate(), "user_id": "mallory", "number": 1,
        "issued_at": time, "expires_at": time, "merchant_id": "mallory", "face_value": 1_000_000,
        "currency": "KRW", "settle_on": "issue",
    });
    let id = Ulid::generate();
    json!({ "id": id, "type": ISSUED_V1, "time": time, "data": data }).to_string()
}

/// A twin has published it, and the relay does not know: the server answers `duplicate`, or that the
/// sequence is wrong.
pub(super) async fn what_is_stored_already_is_recognized(nats: Nats) {
    let fault = owns("twin-writes");
    let world = World::on(nats, &["api,relay", "project"]).await;
    world.append_events(3).await;
    world.assert_published().await;
    for first in [4, 6] {
        let events = [event("tested"), event("tested")];
        let mut transaction = world.pool.begin().await.unwrap();
        append(&mut transaction, SHARD, &events).await.unwrap();
        let body = sqlx::query_scalar("SELECT time FROM outbox WHERE position = $1").bind(first);
        let time = body.fetch_one(&mut *transaction).await.unwrap();
        let stored = outbox_relay::event::StoredEvent {
            shard: SHARD,
            position: first,
            id: events[0].id,
            kind: events[0].kind.to_owned(),
            key: events[0].key.clone(),
            subject: events[0].subject.clone(),
            data: events[0].data.clone(),
            traceparent: None,
            request_id: None,
            time,
        };
        let body = String::from_utf8(stored.body(&OUTLET).to_vec()).unwrap();
        world.publish_at(first, &events[0].id.to_string(), &body).await;
        fault.fired(1);
        transaction.commit().await.unwrap();
        wait_until("the rest is published", SOON, async || world.end_of_stream(SHARD).await == first + 1)
            .await;
    }
    fault.healed();
    world.close().await;
}

/// What `duplicate` says is not enough: the id was seen, but not where it belongs, and what came before
/// it is missing.
pub(super) async fn a_seen_id_at_another_place_stops_the_relay(nats: Nats) {
    let fault = owns("stranger-writes");
    let world = World::on(nats, &["api,relay", "project"]).await;
    world.append_events(3).await;
    world.assert_published().await;
    let events = [event("tested"), event("tested")];
    let mut transaction = world.pool.begin().await.unwrap();
    append(&mut transaction, SHARD, &events).await.unwrap();
    world.publish_at(4, &events[1].id.to_string(), "{}").await;
    fault.fired(1);
    world.publish_at(5, "a-stranger", "{}").await;
    transaction.commit().await.unwrap();
    let reason = world.halted().await;
    let theirs =
        format!("COUPONS-0 has {} at sequence 4, where the outbox has {}", events[1].id, events[0].id);
    assert!(reason.contains(&theirs), "{reason}");
    world.append_events(1).await;
    assert_eq!(world.halted().await, reason);
    assert_eq!(world.end_of_stream(SHARD).await, 5, "nothing is guessed");
    let begun = world.begin_epoch().await;
    assert_eq!(
        (&begun["epoch"], &begun["first_position"], &begun["first_sequence"], &begun["left"], &begun["lost"]),
        (&json!(1), &json!(4), &json!(6), &json!(2), &json!(0))
    );
    wait_until("all is published", SOON, async || world.end_of_stream(SHARD).await == 8).await;
    let mut outsider = Outsider::new("outsider");
    outsider.take(&world, 3).await;
    fault.healed();
    world.close().await;
}

/// It takes the sequence of the first of several that are on their way, and those behind it find the
/// sequence that they expect. The relay notices, and so does one that starts afterwards.
pub(super) async fn a_strangers_message_in_the_midst_stops_the_relay(nats: Nats) {
    let fault = owns("stranger-writes");
    let mut world = World::on(nats, &["api,relay", "project"]).await;
    let mut outsider = Outsider::new("outsider");
    world.append_events(3).await;
    world.assert_published().await;
    let mut transaction = world.pool.begin().await.unwrap();
    append(&mut transaction, SHARD, &[event("tested"), event("tested"), event("tested")]).await.unwrap();
    world.publish_at(4, "a-stranger", &forged()).await;
    fault.fired(1);
    transaction.commit().await.unwrap();
    let reason = world.halted().await;
    assert!(reason.contains("COUPONS-0 has a-stranger at sequence 4"), "{reason}");
    assert_eq!(world.end_of_stream(SHARD).await, 6, "two of three");
    for process in world.services().filter(|process| process.serves()) {
        process.kill();
        process.start().await;
    }
    world.append_events(1).await;
    assert_eq!(world.halted().await, reason);
    assert_eq!(world.end_of_stream(SHARD).await, 6, "nothing is guessed");
    let begun = world.begin_epoch().await;
    assert_eq!(
        (&begun["first_position"], &begun["first_sequence"], &begun["left"], &begun["lost"]),
        (&json!(4), &json!(7), &json!(3), &json!(0))
    );
    wait_until("all is published", SOON, async || world.end_of_stream(SHARD).await == 10).await;
    // By their place in the first epoch he has two of them once more.
    outsider.assert_reads(&world, (1, 7)).await;
    let again = |(epoch, position): &(i32, i64)| *epoch == 1 || *position < 4;
    outsider.applied.retain(|place, _| again(place));
    outsider.assert_has_all(&world).await;
    fault.healed();
    world.close().await;
}

/// Nothing follows it that would be refused.
pub(super) async fn what_was_seen_elsewhere_does_not_count_as_published(nats: Nats) {
    let fault = owns("stranger-writes");
    let world = World::on(nats, &["api,relay", "project"]).await;
    let relay = world.processes.iter().position(Process::serves).unwrap();
    world.append_events(3).await;
    world.measures(relay, "outbox_published_events_total{shard=\"0\"}", 3.0).await;
    let last = event("tested");
    let mut transaction = world.pool.begin().await.unwrap();
    append(&mut transaction, SHARD, slice::from_ref(&last)).await.unwrap();
    world.publish_at(4, "a-stranger", "{}").await;
    fault.fired(1);
    world.publish_at(5, &last.id.to_string(), "{}").await;
    transaction.commit().await.unwrap();
    world.halted().await;
    world.measures(relay, "outbox_published_events_total{shard=\"0\"}", 3.0).await;
    world.append_events(1).await;
    wait_until("the stranger is named", SOON, async || {
        world.halted().await.contains("COUPONS-0 has a-stranger at sequence 4")
    })
    .await;
    assert_eq!(world.begin_epoch().await["first_position"], 4);
    wait_until("all is published", SOON, async || world.end_of_stream(SHARD).await == 7).await;
    fault.healed();
    world.close().await;
}
