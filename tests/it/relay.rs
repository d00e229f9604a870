//! From the outbox to the stream: every event once, at the sequence that is its position, whatever
//! is killed, frozen or wiped, and however many relays believe that they lead.

use std::fs;
use std::time::Duration;

use async_nats::jetstream;
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::ids::CampaignId;
use outbox_relay::{NewEvent, Shard, append};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use ulid::Ulid;

use crate::outbox::{append_committed, event};
use crate::support::{SOON, TOKEN, World, owns, wait_until};

const SHARD: Shard = Shard(0);
const RELAY_LOCK: &str = "outbox_relay";

/// The API in the first process, the projections in the second, and a relay in the third.
async fn split_world() -> World {
    World::with_processes(&["api", "project", "relay"]).await
}

#[tokio::test]
async fn a_message_carries_its_event_and_the_trace_and_id_of_its_request() {
    let world = World::start().await;
    let campaign = world.create_campaign(json!({ "quantity": 100 })).await;
    let open = format!("/v1/campaigns/{campaign}/open");
    let opened = world.api().with("Request-Id", "opening").post(&open, &Value::Null).await;
    assert_eq!(opened.status, 200, "{opened:?}");
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    claim_traced(&world, campaign, traceparent).await;
    world.answered(&world.rush(campaign, 150).run().await).await;
    world.assert_published().await;

    let events = world.outbox(SHARD).await;
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!((kinds[0], kinds[1], kinds[101]), ("campaign-opened", "issued", "campaign-sold-out"));
    assert_eq!(kinds.len(), 102);
    assert_eq!(events[0].request_id.as_deref(), Some("opening"));
    assert_eq!(events[1].traceparent.as_deref(), Some(traceparent));
    assert_eq!(events[1].request_id.as_deref(), Some("claim-1"));
    assert!(events[2..101].iter().all(|event| event.request_id.as_ref().is_some_and(|id| id.len() == 26)));
    assert_eq!(events[101].request_id, None);
    world.close().await;
}

async fn claim_traced(world: &World, campaign: CampaignId, traceparent: &str) {
    let body = r#"{"user_id":"traced"}"#;
    let request = format!(
        "POST /v1/campaigns/{campaign}/coupons HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\
         traceparent: {traceparent}\r\nrequest-id: claim-1\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(world.processes[0].address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[tokio::test]
async fn a_relay_that_is_killed_again_and_again_leaves_no_hole_and_no_copy() {
    let fault = owns("relay-killed");
    let mut world = split_world().await;
    let campaign = world.open_campaign(json!({ "quantity": 2_500 })).await;
    let rush = tokio::spawn(world.rush(campaign, 2_500).run());
    for issued in [100, 500, 900, 1_300, 1_700] {
        world.issued(campaign, issued).await;
        world.processes[2].kill();
        fault.fired(1);
        world.processes[2].start().await;
    }
    world.answered(&rush.await.unwrap()).await;
    world.assert_published().await;
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_second_relay_stands_by_and_takes_over() {
    let fault = owns("relay-taken-over");
    let mut world = split_world().await;
    world.leader(RELAY_LOCK, SHARD).await;
    world.add_process("relay").await;
    let campaign = world.open_campaign(json!({ "quantity": 2_003 })).await;
    let rush = tokio::spawn(world.rush(campaign, 2_000).run());
    for (leader, issued) in [(2, 300), (3, 900), (2, 1_500)] {
        world.issued(campaign, issued).await;
        let published = world.end_of_stream(SHARD).await;
        world.processes[leader].kill();
        fault.fired(1);
        // The rush may be over before the other is the leader.
        assert_eq!(world.claim(campaign, &format!("late-{issued}")).await.status, 201);
        wait_until("the other takes over", SOON, async || world.end_of_stream(SHARD).await > published).await;
        world.processes[leader].start().await;
    }
    world.answered(&rush.await.unwrap()).await;
    world.assert_published().await;
    fault.healed();
    world.close().await;
}

/// The first relay has read a batch and sent little of it when it is frozen. It loses its lock, a
/// second relay publishes everything, and then the first one wakes up and sends the rest.
#[tokio::test]
async fn a_relay_that_wakes_up_behind_another_adds_nothing() {
    let fault = owns("relay-frozen");
    let mut world = split_world().await;
    let first = world.leader(RELAY_LOCK, SHARD).await;
    append_committed(&world, SHARD, &[event("tested")]).await;
    world.assert_published().await;
    forget_duplicates(&world).await;
    world.add_process("relay").await;
    // Just before, so that it reads on and does not ask the stream, as it does at rest.
    append_committed(&world, SHARD, &[event("tested")]).await;
    world.assert_published().await;

    world.servers.nats.freeze();
    let large = NewEvent { data: format!(r#"{{"large": "{}"}}"#, "x".repeat(60_000)), ..event("tested") };
    let events: Vec<NewEvent> =
        (0..300).map(|_| NewEvent { id: Ulid::generate(), ..large.clone() }).collect();
    append_committed(&world, SHARD, &events).await;
    waits_for_stream(&world, first).await;
    world.processes[2].freeze();
    fault.fired(1);
    end_session(&world, first).await;
    wait_until("the second leads", SOON, async || {
        world.try_leader(RELAY_LOCK, SHARD).await.is_some_and(|leader| leader != first)
    })
    .await;
    world.servers.nats.thaw();
    world.assert_published().await;
    world.processes[2].thaw();
    // The first finds that it does not lead, and stands by.
    for told in ["the connection to Postgres is lost", "connected to Postgres again"] {
        world.processes[2].told(told).await;
    }
    world.assert_published().await;

    world.processes[3].kill();
    append_committed(&world, SHARD, &[event("tested"), event("tested")]).await;
    world.assert_published().await;
    fault.healed();
    world.close().await;
}

/// The server's memory of message ids, which is not to be needed, is cut to the shortest.
async fn forget_duplicates(world: &World) {
    let context = jetstream::new(world.nats().await);
    let mut stream = context.get_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    let config = stream.info().await.unwrap().config.clone();
    let config = jetstream::stream::Config { duplicate_window: Duration::from_millis(100), ..config };
    context.update_stream(config).await.unwrap();
}

/// Waits until a relay polls no more: it has read events, and waits for them to be stored.
async fn waits_for_stream(world: &World, session: i32) {
    wait_until("the relay waits for the stream", SOON, async || {
        sqlx::query_scalar(
            "SELECT state = 'idle' AND clock_timestamp() - query_start > interval '1 second' \
             FROM pg_stat_activity WHERE pid = $1",
        )
        .bind(session)
        .fetch_one(&world.pool)
        .await
        .unwrap()
    })
    .await;
}

async fn end_session(world: &World, session: i32) {
    let ended: bool = sqlx::query_scalar("SELECT pg_terminate_backend($1)")
        .bind(session)
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert!(ended);
}

/// The transaction of one shard stays open.
#[tokio::test]
async fn a_slow_writer_delays_no_other_shard() {
    let fault = owns("shard-locked");
    let mut world = World::bare(2).await;
    world.migrate().await;
    world.add_process("relay,project").await;
    let mut slow = world.pool.begin().await.unwrap();
    append(&mut slow, Shard(1), &[event("tested")]).await.unwrap();
    fault.fired(1);
    for count in 1..=20 {
        append_committed(&world, Shard(0), &[event("tested")]).await;
        wait_until("it is published", SOON, async || world.end_of_stream(Shard(0)).await == count).await;
    }
    assert_eq!(world.end_of_stream(Shard(1)).await, 0);
    slow.commit().await.unwrap();
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_backlog_outlives_a_crash_of_the_stream_server() {
    let fault = owns("nats-killed");
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 2_000 })).await;
    let rush = tokio::spawn(world.rush(campaign, 2_000).run());
    world.issued(campaign, 300).await;
    for issued in [900, 1_600] {
        world.servers.nats.kill().await;
        fault.fired(1);
        world.issued(campaign, issued).await;
        world.servers.nats.start().await.unwrap();
    }
    world.answered(&rush.await.unwrap()).await;
    world.assert_published().await;
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_stream_that_is_lost_in_a_rush_is_made_again() {
    let fault = owns("nats-store-deleted");
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 2_000 })).await;
    let rush = tokio::spawn(world.rush(campaign, 2_000).run());
    world.issued(campaign, 500).await;
    lose_streams(&mut world).await;
    fault.fired(1);
    world.answered(&rush.await.unwrap()).await;
    world.assert_published().await;
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_stream_that_is_lost_at_rest_is_made_again() {
    let fault = owns("nats-store-deleted");
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 50 })).await;
    world.answered(&world.rush(campaign, 100).run().await).await;
    world.assert_published().await;
    lose_streams(&mut world).await;
    fault.fired(1);
    world.assert_published().await;
    fault.healed();
    world.close().await;
}

async fn lose_streams(world: &mut World) {
    world.servers.nats.kill().await;
    fs::remove_dir_all(world.servers.nats.dir().join("jetstream")).unwrap();
    world.servers.nats.start().await.unwrap();
}

#[tokio::test]
async fn a_message_of_somebody_else_stops_the_relay() {
    let fault = owns("stranger-writes");
    let mut world = split_world().await;
    append_committed(&world, SHARD, &[event("tested")]).await;
    world.assert_published().await;
    world.processes[2].kill();
    fault.fired(1);
    let context = jetstream::new(world.nats().await);
    let stranger = jetstream::message::PublishMessage::build().message_id("a-stranger");
    context.send_publish("coupons.tested.K.0", stranger).await.unwrap().await.unwrap();
    append_committed(&world, SHARD, &[event("tested"), event("tested")]).await;
    world.processes[2].start().await;
    let alarm = "has a-stranger at sequence 2";
    wait_until("the relay says why it stops", SOON, async || world.processes[2].log().contains(alarm)).await;
    assert_eq!(world.end_of_stream(SHARD).await, 2);

    // Nobody makes it again while it is being deleted.
    world.processes[1].kill();
    world.processes[2].kill();
    context.delete_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    world.processes[1].start().await;
    world.processes[2].start().await;
    world.assert_published().await;
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn three_shards_are_published_and_projected() {
    let mut world = World::bare(3).await;
    world.migrate().await;
    world.add_process("").await;
    world.add_process("").await;
    let mut rushes = JoinSet::new();
    for shard in 0..3 {
        let campaign = loop {
            let campaign = world.create_campaign(json!({ "quantity": 300 })).await;
            if campaign.shard(3) == Shard(shard) {
                break campaign;
            }
        };
        let opened = world.api().post(&format!("/v1/campaigns/{campaign}/open"), &json!(null)).await;
        assert_eq!(opened.status, 200);
        rushes.spawn(world.rush(campaign, 400).run());
    }
    world.issued_in_all(450).await;
    world.processes[0].kill();
    world.processes[0].start().await;
    for results in rushes.join_all().await {
        world.answered(&results).await;
    }
    world.assert_published().await;
    for shard in (0..3).map(Shard) {
        assert_eq!(world.head(shard).await, 302, "opened, 300 issued, sold out");
    }
    world.close().await;
}

impl World {
    /// Waits until so many coupons are issued, of whatever campaign.
    async fn issued_in_all(&self, count: i64) {
        wait_until("coupons are issued", SOON, async || {
            let issued: i64 =
                sqlx::query_scalar("SELECT count(*) FROM coupons").fetch_one(&self.pool).await.unwrap();
            issued >= count
        })
        .await;
    }
}
