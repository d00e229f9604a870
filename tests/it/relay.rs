//! From the outbox to the stream: every event once, at the sequence that is its position, whatever
//! is killed, frozen or wiped, and however many relays believe that they lead.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use coupon_dispatcher::campaign::CampaignId;
use coupon_dispatcher::event::OUTLET;
use outbox_relay::event::StoredEvent;
use outbox_relay::{AppendError, NewEvent, Relay, Shard, append};
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use ulid::Ulid;

use crate::support::{SOON, TOKEN, World, seeded, wait_until};

const SHARD: Shard = Shard(0);
const RELAY_LOCK: &str = "outbox_relay";

fn event(kind: &'static str) -> NewEvent {
    NewEvent {
        id: Ulid::generate(),
        kind,
        key: "K".to_owned(),
        subject: "what it is about".to_owned(),
        data: r#"{"some": "data"}"#.to_owned(),
        traceparent: None,
    }
}

/// Appends in a transaction of its own, and answers the position of the last.
async fn append_committed(world: &World, shard: Shard, events: &[NewEvent]) -> i64 {
    let mut transaction = world.pool.begin().await.unwrap();
    let last = append(&mut transaction, shard, events).await.unwrap();
    transaction.commit().await.unwrap();
    last
}

/// The API in the first process, the projections in the second, and a relay in the third.
async fn split_world() -> World {
    World::with_processes(&["api", "project", "relay"]).await
}

#[tokio::test]
async fn a_message_carries_its_event_and_the_trace_of_its_request() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 100 })).await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    claim_traced(&world, campaign, traceparent).await;
    world.answered(&world.rush(campaign, 150).run().await);
    world.assert_published().await;

    let events = world.outbox(SHARD).await;
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!((kinds[0], kinds[1], kinds[101]), ("campaign-opened", "issued", "campaign-sold-out"));
    assert_eq!(kinds.len(), 102);
    assert_eq!(events[1].traceparent.as_deref(), Some(traceparent));
    world.close().await;
}

async fn claim_traced(world: &World, campaign: CampaignId, traceparent: &str) {
    let body = r#"{"user_id":"traced"}"#;
    let request = format!(
        "POST /v1/campaigns/{campaign}/coupons HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\
         traceparent: {traceparent}\r\nconnection: close\r\ncontent-type: application/json\r\n\
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
    let mut world = split_world().await;
    let campaign = world.open_campaign(json!({ "quantity": 2_500 })).await;
    let rush = tokio::spawn(world.rush(campaign, 2_500).run());
    for issued in [100, 500, 900, 1_300, 1_700] {
        world.issued(campaign, issued).await;
        world.processes[2].kill();
        world.processes[2].start().await;
    }
    world.answered(&rush.await.unwrap());
    world.assert_published().await;
    world.close().await;
}

#[tokio::test]
async fn a_second_relay_stands_by_and_takes_over() {
    let mut world = split_world().await;
    world.leader(RELAY_LOCK, SHARD).await;
    world.add_process("relay").await;
    let campaign = world.open_campaign(json!({ "quantity": 2_000 })).await;
    let rush = tokio::spawn(world.rush(campaign, 2_000).run());
    for (leader, issued) in [(2, 300), (3, 900), (2, 1_500)] {
        world.issued(campaign, issued).await;
        let published = world.end_of_stream(SHARD).await;
        world.processes[leader].kill();
        wait_until("the other takes over", SOON, async || world.end_of_stream(SHARD).await > published).await;
        world.processes[leader].start().await;
    }
    world.answered(&rush.await.unwrap());
    world.assert_published().await;
    world.close().await;
}

/// The first relay has read a batch and sent little of it when it is frozen. It loses its lock, a
/// second relay publishes everything, and then the first one wakes up and sends the rest.
#[tokio::test]
async fn a_relay_that_wakes_up_behind_another_adds_nothing() {
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
    end_session(&world, first).await;
    wait_until("the second leads", SOON, async || {
        world.try_leader(RELAY_LOCK, SHARD).await.is_some_and(|leader| leader != first)
    })
    .await;
    world.servers.nats.thaw();
    world.assert_published().await;
    world.processes[2].thaw();
    let woken = "the first finds that it does not lead";
    wait_until(woken, SOON, async || world.processes[2].log().contains("relay starts over")).await;
    world.assert_published().await;

    world.processes[3].kill();
    append_committed(&world, SHARD, &[event("tested"), event("tested")]).await;
    world.assert_published().await;
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

#[tokio::test]
async fn a_backlog_outlives_a_crash_of_the_stream_server() {
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 2_000 })).await;
    let rush = tokio::spawn(world.rush(campaign, 2_000).run());
    world.issued(campaign, 300).await;
    for issued in [900, 1_600] {
        world.servers.nats.kill().await;
        world.issued(campaign, issued).await;
        world.servers.nats.start().await.unwrap();
    }
    world.answered(&rush.await.unwrap());
    world.assert_published().await;
    world.close().await;
}

#[tokio::test]
async fn a_stream_that_is_lost_in_a_rush_is_made_again() {
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 2_000 })).await;
    let rush = tokio::spawn(world.rush(campaign, 2_000).run());
    world.issued(campaign, 500).await;
    lose_streams(&mut world).await;
    world.answered(&rush.await.unwrap());
    world.assert_published().await;
    world.close().await;
}

#[tokio::test]
async fn a_stream_that_is_lost_at_rest_is_made_again() {
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 50 })).await;
    world.answered(&world.rush(campaign, 100).run().await);
    world.assert_published().await;
    lose_streams(&mut world).await;
    world.assert_published().await;
    world.close().await;
}

async fn lose_streams(world: &mut World) {
    world.servers.nats.kill().await;
    fs::remove_dir_all(world.servers.nats.dir().join("jetstream")).unwrap();
    world.servers.nats.start().await.unwrap();
}

#[tokio::test]
async fn a_message_of_somebody_else_stops_the_relay() {
    let mut world = split_world().await;
    append_committed(&world, SHARD, &[event("tested")]).await;
    world.assert_published().await;
    world.processes[2].kill();
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
        world.answered(&results);
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

/// Many writers, some of which roll back or break off, and a reader for each shard that follows:
/// it never finds a position without all those before it.
#[tokio::test]
async fn positions_are_the_order_of_commit_without_a_gap() {
    let mut world = World::bare(2).await;
    world.migrate().await;
    world.add_process("relay,project").await;
    let (seed, _) = seeded();
    let mut writers = JoinSet::new();
    for number in 0..8 {
        let random = rand::SeedableRng::seed_from_u64(seed.wrapping_add(number));
        writers.spawn(write(world.servers.database_url(), random));
    }
    let written = tokio::spawn(writers.join_all());
    let mut cursors = [0_i64; 2];
    while !written.is_finished() {
        follow(&world, &mut cursors).await;
    }
    follow(&world, &mut cursors).await;

    let committed: Vec<Appended> = written.await.unwrap().into_iter().flatten().collect();
    for shard in [Shard(0), Shard(1)] {
        let events = world.outbox(shard).await;
        let mine = committed.iter().filter(|appended| appended.shard == shard);
        let mut count = 0;
        for Appended { last, ids, .. } in mine {
            let end = usize::try_from(*last).unwrap();
            let stored: Vec<Ulid> = events[end - ids.len()..end].iter().map(|event| event.id).collect();
            assert_eq!(stored, *ids, "up to position {last} of shard {shard}");
            count += ids.len();
        }
        assert_eq!(events.len(), count, "rolled back and there all the same");
        assert_eq!(cursors[usize::try_from(shard.0).unwrap()], world.head(shard).await);
    }
    world.assert_published().await;
    world.close().await;
}

/// What a transaction has committed.
struct Appended {
    shard: Shard,
    last: i64,
    ids: Vec<Ulid>,
}

async fn write(database: String, mut random: StdRng) -> Vec<Appended> {
    let mut committed = Vec::new();
    let mut connection = PgConnection::connect(&database).await.unwrap();
    for _ in 0..60 {
        let shard = Shard(random.random_range(0..2));
        let events: Vec<NewEvent> = (0..random.random_range(1..=5)).map(|_| event("tested")).collect();
        let mut transaction = connection.begin().await.unwrap();
        let last = append(&mut transaction, shard, &events).await.unwrap();
        match random.random_range(0..10) {
            0..2 => transaction.rollback().await.unwrap(),
            2 => {
                drop(transaction);
                connection = PgConnection::connect(&database).await.unwrap(); // the old one breaks off
            }
            _ => {
                transaction.commit().await.unwrap();
                committed.push(Appended { shard, last, ids: events.iter().map(|event| event.id).collect() });
            }
        }
    }
    committed
}

/// Reads what is new, as a relay does.
async fn follow(world: &World, cursors: &mut [i64; 2]) {
    let mut connection = world.pool.acquire().await.unwrap();
    for (shard, cursor) in (0..).map(Shard).zip(cursors) {
        for event in StoredEvent::between(&mut connection, shard, *cursor, i64::MAX).await.unwrap() {
            assert_eq!(event.position, *cursor + 1, "a gap in shard {shard}");
            *cursor = event.position;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_published_is_not_appended() {
    let world = World::with_processes(&["relay,project"]).await;
    let long = "x".repeat(65);
    let key = |key: &str| NewEvent { key: key.to_owned(), ..event("tested") };
    let data = |data: String| NewEvent { data, ..event("tested") };
    let traced = |by: &str| NewEvent { traceparent: Some(by.to_owned()), ..event("tested") };
    let long_subject = NewEvent { subject: "x".repeat(1_100_000), ..event("tested") };
    for (refused, constraint) in [
        (event("two words"), "outbox_subjects_are_tokens"),
        (event("two.tokens"), "outbox_subjects_are_tokens"),
        (event("*"), "outbox_subjects_are_tokens"),
        (event(">"), "outbox_subjects_are_tokens"),
        (event(""), "outbox_type_is_short"),
        (event("a\r\nb"), "outbox_subjects_are_tokens"),
        (key("a.b"), "outbox_subjects_are_tokens"),
        (key("a b"), "outbox_subjects_are_tokens"),
        (key("a*"), "outbox_subjects_are_tokens"),
        (key(""), "outbox_key_is_short"),
        (key(&long), "outbox_key_is_short"),
        (data(format!("\"{}\"", "x".repeat(65_535))), "outbox_data_is_small"),
        (data("no JSON".to_owned()), "invalid input syntax for type json"),
        (traced("00-1\r\nNats-Msg-Id: another"), "outbox_traceparents_are_headers"),
        (long_subject, "outbox_subject_is_short"),
    ] {
        let mut transaction = world.pool.begin().await.unwrap();
        match append(&mut transaction, SHARD, &[event("tested"), refused.clone()]).await {
            Err(AppendError::Refused(reason)) => assert_eq!(reason, constraint),
            other => panic!("{constraint}: {other:?}"),
        }
        let more = sqlx::query("SELECT 1").execute(&mut *transaction).await;
        assert!(more.is_err(), "the transaction can only be rolled back");
        transaction.rollback().await.unwrap();
        assert_eq!(world.head(SHARD).await, 0);
    }
    let largest = data(format!("\"{}\"", "x".repeat(65_534)));
    assert_eq!(append_committed(&world, SHARD, &[key(&"x".repeat(64)), largest]).await, 2);
    world.assert_published().await;
    world.close().await;
}

/// A million positions are not written here: the outbox starts shortly before the boundary, as if
/// all before were past retention.
#[tokio::test]
async fn positions_go_on_in_the_next_partition() {
    let world = World::bare(2).await;
    world.migrate().await;
    let first = 999_995;
    sqlx::query(
        "INSERT INTO outbox (shard, position, event_id, type, key, subject, data, time) \
         SELECT shard, $1, gen_random_uuid(), 'tested', 'K', 'K', '{}', now() FROM generate_series(0, 1) AS shard",
    )
    .bind(first)
    .execute(&world.pool)
    .await
    .unwrap();
    // Both shards cross at once: the second finds that the first has made the partitions.
    let mut transaction = world.pool.begin().await.unwrap();
    append(&mut transaction, Shard(0), &new_events(10)).await.unwrap();
    let crossing = async { append_committed(&world, Shard(1), &new_events(10)).await };
    let committing = async {
        wait_until("the second waits for the first", SOON, async || is_waiting(&world).await).await;
        transaction.commit().await.unwrap();
    };
    futures_util::join!(crossing, committing);
    let appending =
        (0..24).map(async |number: i16| append_committed(&world, Shard(number % 2), &new_events(2)).await);
    futures_util::future::join_all(appending).await;
    let mut connection = world.pool.acquire().await.unwrap();
    for shard in [Shard(0), Shard(1)] {
        let events = StoredEvent::between(&mut connection, shard, first - 1, i64::MAX).await.unwrap();
        let positions: Vec<i64> = events.iter().map(|event| event.position).collect();
        assert_eq!(positions, (first..=first + 34).collect::<Vec<_>>());
        assert_eq!(world.head(shard).await, first + 34);
    }
    drop(connection);
    assert!(halts(&world).await.contains("the outbox starts at 999995"));
    sqlx::query("TRUNCATE outbox").execute(&world.pool).await.unwrap();
    drop_stream(&world).await;
    world.close().await;
}

fn new_events(count: usize) -> Vec<NewEvent> {
    (0..count).map(|_| event("tested")).collect()
}

async fn is_waiting(world: &World) -> bool {
    let waits = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)");
    waits.fetch_one(&world.pool).await.unwrap()
}

/// Why a relay of this outbox stops.
async fn halts(world: &World) -> String {
    let connections = world.connections().await.unwrap();
    let relay = Relay::new(OUTLET, SHARD, 1, connections.database, connections.nats, Arc::default());
    let mut status = relay.status();
    let halted = status.wait_for(|status| status.halted.is_some());
    tokio::select! {
        status = halted => status.unwrap().halted.clone().unwrap(),
        never = relay.run() => match never {},
    }
}

async fn drop_stream(world: &World) {
    jetstream::new(world.nats().await).delete_stream(OUTLET.stream_of(SHARD)).await.unwrap();
}
