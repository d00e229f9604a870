//! What can befall a stream, and what its relay makes of it: on the packaged server of NATS, on the
//! newest one, and on clusters of three.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use coupon_dispatcher::event::{ISSUED_V1, OUTLET};
use futures_util::TryStreamExt as _;
use outbox_relay::event::{EPOCH_HEADER, POSITION_HEADER};
use outbox_relay::{Shard, append};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::timeout;
use ulid::Ulid;

use crate::outbox::{append_committed, event};
use crate::support::{Nats, Process, SOON, World, wait_for, wait_until};

const SHARD: Shard = Shard(0);
const STREAM: &str = "COUPONS-0";

/// A test for each of these servers.
macro_rules! on {
    ($($name:ident: $($module:ident $nats:ident),+;)+) => {$(
        mod $name {$(
            #[tokio::test]
            async fn $module() {
                super::$name(crate::support::Nats::$nats).await;
            }
        )+}
    )+};
}

on! {
    a_lost_tail_is_published_again: packaged Packaged, newest Newest, packaged_cluster PackagedCluster, newest_cluster NewestCluster;
    a_tail_that_is_lost_in_a_rush_is_published_again: packaged Packaged, newest Newest, packaged_cluster PackagedCluster, newest_cluster NewestCluster;
    a_deleted_stream_is_made_again: packaged Packaged, newest Newest, packaged_cluster PackagedCluster, newest_cluster NewestCluster;
    what_is_stored_already_is_recognized: packaged Packaged, newest Newest, packaged_cluster PackagedCluster, newest_cluster NewestCluster;
    a_seen_id_at_another_place_stops_the_relay: packaged Packaged, newest Newest, packaged_cluster PackagedCluster, newest_cluster NewestCluster;
    a_strangers_message_in_the_midst_stops_the_relay: packaged Packaged, newest Newest, packaged_cluster PackagedCluster, newest_cluster NewestCluster;
    a_stream_past_retention_needs_a_decision: packaged Packaged, newest Newest, packaged_cluster PackagedCluster, newest_cluster NewestCluster;
    a_restored_database_needs_an_epoch: packaged Packaged, newest Newest, packaged_cluster PackagedCluster, newest_cluster NewestCluster;
    a_message_that_is_lost_from_the_middle_is_named: packaged Packaged, newest Newest, packaged_cluster PackagedCluster, newest_cluster NewestCluster;
    while_nats_is_away_the_outbox_waits: packaged Packaged, newest Newest, packaged_cluster PackagedCluster, newest_cluster NewestCluster;
    a_cluster_that_loses_its_leader_loses_nothing: packaged_cluster PackagedCluster, newest_cluster NewestCluster;
    a_node_that_was_away_catches_up: packaged_cluster PackagedCluster, newest_cluster NewestCluster;
}

/// A durable consumer of another service, which applies each event once: by epoch and position.
#[derive(Default)]
struct Outsider {
    name: &'static str,
    applied: BTreeMap<(i32, i64), Ulid>,
}

impl Outsider {
    fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// Takes what is there, up to so many messages. A cluster that elects is asked again.
    async fn take(&mut self, world: &World, count: usize) {
        wait_until("the stream is read", 2 * SOON, async || match self.try_take(world, count).await {
            Ok(()) => true,
            Err(error) => {
                eprintln!("{} asks again: {error}", self.name);
                false
            }
        })
        .await;
    }

    async fn try_take(&mut self, world: &World, count: usize) -> Result<(), async_nats::Error> {
        let stream = jetstream::new(world.nats().await).get_stream(STREAM).await?;
        let durable_name = Some(self.name.to_owned());
        let config = pull::Config { durable_name, ack_policy: AckPolicy::Explicit, ..Default::default() };
        let consumer: PullConsumer = stream.get_or_create_consumer(self.name, config).await?;
        let batch = consumer.fetch().max_messages(count).messages().await?;
        let messages: Vec<_> = timeout(SOON, batch.try_collect()).await??;
        for message in messages {
            let headers = message.headers.as_ref().unwrap();
            let number = |name: &str| headers.get(name).map_or(0, |text| text.as_str().parse().unwrap());
            let place = (i32::try_from(number(EPOCH_HEADER)).unwrap(), number(POSITION_HEADER));
            let body: Value = serde_json::from_slice(&message.payload).unwrap();
            if self.applied.last_key_value().is_none_or(|(last, _)| place > *last) {
                self.applied.insert(place, body["id"].as_str().unwrap().parse().unwrap());
            }
            message.double_ack().await?;
        }
        Ok(())
    }

    /// In the end it has this event, by epoch and position, and none behind it.
    async fn assert_reads(&mut self, world: &World, last: (i32, i64)) {
        wait_until("the other service has the last event", SOON, async || {
            self.take(world, 1_000).await;
            self.applied.last_key_value().is_some_and(|(place, _)| *place == last)
        })
        .await;
    }

    /// In the end it has every event of the outbox, each once, and nothing else.
    async fn assert_has_all(&mut self, world: &World) {
        let head = world.head(SHARD).await;
        wait_until("the other service has the last event", SOON, async || {
            self.take(world, 1_000).await;
            self.applied.last_key_value().is_some_and(|((_, position), _)| *position == head)
        })
        .await;
        let ids: Vec<Ulid> = self.applied.values().copied().collect();
        let outbox: Vec<Ulid> = world.outbox(SHARD).await.iter().map(|event| event.id).collect();
        assert_eq!(ids, outbox, "{} has something else than the outbox", self.name);
    }
}

impl World {
    pub(crate) async fn append_events(&self, count: usize) {
        let events: Vec<_> = (0..count).map(|_| event("tested")).collect();
        append_committed(self, SHARD, &events).await;
    }

    /// The relay stops, and says so: the reason.
    pub(crate) async fn halted(&self) -> String {
        wait_for("the relay stops", SOON, async || {
            let answer = self.api().get("/readyz").await;
            assert_eq!(answer.status, 200, "claims go on: {answer:?}");
            answer.body["halted"][0].as_str().map(ToOwned::to_owned)
        })
        .await
    }

    pub(crate) async fn begin_epoch(&self) -> Value {
        let begun = self.coupon(&["relay", "epoch", "new", "--json"]).await;
        assert_eq!(begun.code, Some(0), "{begun:?}");
        serde_json::from_str(&begun.out).unwrap()
    }

    /// The name of the node that leads the stream.
    async fn leading_node(&self) -> String {
        wait_for("the stream has a leader", SOON, async || {
            let stream = jetstream::new(self.nats().await).get_stream(STREAM).await.ok()?;
            stream.cached_info().cluster.as_ref()?.leader.clone()
        })
        .await
    }

    /// As a twin of the relay would.
    pub(crate) async fn publish_at(&self, sequence: i64, id: &str, body: &str) {
        let message = jetstream::message::PublishMessage::build()
            .payload(body.to_owned().into())
            .message_id(id)
            .expected_last_sequence(sequence.unsigned_abs() - 1);
        let context = jetstream::new(self.nats().await);
        context.send_publish("coupons.tested.K.0", message).await.unwrap().await.unwrap();
    }
}

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

async fn a_lost_tail_is_published_again(nats: Nats) {
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
    world.assert_published().await;
    ahead.assert_has_all(&world).await;
    behind.assert_has_all(&world).await;
    world.close().await;
}

async fn a_tail_that_is_lost_in_a_rush_is_published_again(nats: Nats) {
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
        std::fs::remove_dir_all(copy).unwrap();
    }
    world.answered(&rush.await.unwrap());
    world.assert_published().await;
    outsider.assert_has_all(&world).await;
    world.close().await;
}

/// By somebody who may, while everybody is at work.
async fn a_deleted_stream_is_made_again(nats: Nats) {
    let world = World::on(nats, &["api,relay", "project"]).await;
    for count in [1, 100, 400] {
        world.append_events(count).await;
        world.assert_published().await;
        jetstream::new(world.nats().await).delete_stream(STREAM).await.unwrap();
        world.append_events(10).await;
        world.assert_published().await;
    }
    Outsider::new("outsider").assert_has_all(&world).await;
    world.close().await;
}

/// A twin has published it, and the relay does not know: the server answers `duplicate`, or that the
/// sequence is wrong.
async fn what_is_stored_already_is_recognized(nats: Nats) {
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
            time,
        };
        let body = String::from_utf8(stored.body(&OUTLET).to_vec()).unwrap();
        world.publish_at(first, &events[0].id.to_string(), &body).await;
        transaction.commit().await.unwrap();
        wait_until("the rest is published", SOON, async || world.end_of_stream(SHARD).await == first + 1)
            .await;
    }
    world.close().await;
}

/// What `duplicate` says is not enough: the id was seen, but not where it belongs, and what came before
/// it is missing.
async fn a_seen_id_at_another_place_stops_the_relay(nats: Nats) {
    let world = World::on(nats, &["api,relay", "project"]).await;
    world.append_events(3).await;
    world.assert_published().await;
    let events = [event("tested"), event("tested")];
    let mut transaction = world.pool.begin().await.unwrap();
    append(&mut transaction, SHARD, &events).await.unwrap();
    world.publish_at(4, &events[1].id.to_string(), "{}").await;
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
    world.close().await;
}

/// It takes the sequence of the first of several that are on their way, and those behind it find the
/// sequence that they expect. The relay notices, and so does one that starts afterwards.
async fn a_strangers_message_in_the_midst_stops_the_relay(nats: Nats) {
    let mut world = World::on(nats, &["api,relay", "project"]).await;
    let mut outsider = Outsider::new("outsider");
    world.append_events(3).await;
    world.assert_published().await;
    let mut transaction = world.pool.begin().await.unwrap();
    append(&mut transaction, SHARD, &[event("tested"), event("tested"), event("tested")]).await.unwrap();
    world.publish_at(4, "a-stranger", &forged()).await;
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
    world.close().await;
}

async fn a_stream_past_retention_needs_a_decision(nats: Nats) {
    let world = World::on(nats, &["api,relay", "project"]).await;
    world.append_events(20).await;
    world.balanced().await;
    let mut outsider = Outsider::new("outsider");
    outsider.take(&world, 100).await;
    sqlx::query("DELETE FROM outbox WHERE position <= 12").execute(&world.pool).await.unwrap();
    let context = jetstream::new(world.nats().await);
    context.delete_stream(STREAM).await.unwrap();
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
    world.close().await;
}

async fn a_restored_database_needs_an_epoch(nats: Nats) {
    let mut world = World::on(nats, &["api,relay", "project"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 1_000 })).await;
    world.answered(&world.rush(campaign, 300).run().await);
    world.balanced().await;
    let copy = world.copy_of_postgres();
    let known = world.head(SHARD).await;
    for user in 0..50 {
        // Not remembered: they are promised, and lost with the database.
        let claim = json!({ "user_id": format!("late-{user}") });
        let answer = world.api().post(&format!("/v1/campaigns/{campaign}/coupons"), &claim).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    world.balanced().await;
    let mut outsider = Outsider::new("outsider");
    outsider.take(&world, 1_000).await;
    world.services().for_each(Process::kill);
    world.rewind_postgres(&copy).await;
    for process in world.services() {
        process.start().await;
    }
    let reason = world.halted().await;
    assert!(reason.contains("the database was restored to an earlier time"), "{reason}");

    // The API goes on, also beyond where the stream ends.
    world.answered(&world.rush(campaign, 500).run().await);
    let head = world.head(SHARD).await;
    assert!(head > known + 50, "{head}");
    let reason = world.halted().await;
    assert!(reason.contains("Begin a new epoch"), "{reason}");
    assert_eq!(world.end_of_stream(SHARD).await, known + 50);
    let begun = world.begin_epoch().await;
    assert_eq!((&begun["first_position"], &begun["first_sequence"]), (&json!(known + 1), &json!(known + 51)));
    assert_eq!((&begun["left"], &begun["lost"]), (&json!(50), &json!(0)));
    let again = world.coupon(&["relay", "epoch", "new"]).await;
    assert_eq!(again.code, Some(1), "{again:?}");

    // He has what the database no longer knows, and then everything that it does, each once.
    outsider.assert_reads(&world, (1, head)).await;
    outsider.applied.retain(|(epoch, position), _| *epoch == 1 || *position <= known);
    outsider.assert_has_all(&world).await;
    world.close().await;
}

/// The projections, which come to it late, take it from the outbox; others see that it is missing.
async fn a_message_that_is_lost_from_the_middle_is_named(nats: Nats) {
    let mut world = World::on(nats, &["api,relay"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 20 })).await;
    world.answered(&world.rush(campaign, 20).run().await);
    world.assert_published().await;
    let stream = jetstream::new(world.nats().await).get_stream(STREAM).await.unwrap();
    wait_until("the message is removed", SOON, async || stream.delete_message(7).await.is_ok()).await;
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
    world.close().await;
}

async fn while_nats_is_away_the_outbox_waits(nats: Nats) {
    let mut world = World::on(nats, &["api,relay", "project"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 1_000 })).await;
    world.answered(&world.rush(campaign, 100).run().await);
    world.assert_published().await;
    world.stop_nats().await;
    world.answered(&world.rush(campaign, 500).run().await);
    world.start_nats().await;
    world.assert_published().await;
    Outsider::new("outsider").assert_has_all(&world).await;
    world.close().await;
}

/// The projector comes late, to more than it takes at a time.
async fn a_cluster_that_loses_its_leader_loses_nothing(nats: Nats) {
    const PROJECTOR: usize = 3;
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
            world.issued(campaign, issued + 200).await;
            world.processes[node].launch();
        } else {
            world.servers.nats.kill().await;
            world.issued(campaign, issued + 200).await;
            world.servers.nats.start().await.unwrap();
        }
    }
    world.answered(&rush.await.unwrap());
    world.assert_published().await;
    Outsider::new("outsider").assert_has_all(&world).await;
    world.processes[PROJECTOR].start().await;
    world.close().await;
}

/// Away for longer than the servers remember the ids of messages.
async fn a_node_that_was_away_catches_up(nats: Nats) {
    const NODE: usize = 0;
    let mut world = World::on(nats, &["api,relay", "project"]).await;
    world.append_events(10).await;
    world.assert_published().await;
    world.processes[NODE].kill();
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
    world.close().await;
}
