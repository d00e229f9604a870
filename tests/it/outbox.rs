//! Into the outbox: positions without a gap in the order of commit, and nothing that cannot be
//! published.

use async_nats::jetstream;
use coupon_dispatcher::event::OUTLET;
use outbox_relay::event::StoredEvent;
use outbox_relay::{AppendError, NewEvent, Relay, Shard, Site, append};
use rand::RngExt as _;
use rand::rngs::StdRng;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;
use ulid::Ulid;

use crate::support::{SOON, World, seeded, wait_until};

const SHARD: Shard = Shard(0);

pub(crate) fn event(kind: &'static str) -> NewEvent {
    NewEvent {
        id: Ulid::generate(),
        kind,
        key: "K".to_owned(),
        subject: "what it is about".to_owned(),
        data: r#"{"some": "data"}"#.to_owned(),
        traceparent: None,
        request_id: None,
    }
}

/// Appends in a transaction of its own, and answers the position of the last.
pub(crate) async fn append_committed(world: &World, shard: Shard, events: &[NewEvent]) -> i64 {
    let mut transaction = world.pool.begin().await.unwrap();
    let last = append(&mut transaction, shard, events).await.unwrap();
    transaction.commit().await.unwrap();
    last
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
    let requested = |by: &str| NewEvent { request_id: Some(by.to_owned()), ..event("tested") };
    let subject = |length| NewEvent { subject: "x".repeat(length), ..event("tested") };
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
        (requested("1\r\nNats-Msg-Id: another"), "outbox_request_ids_are_headers"),
        (requested("1\rNats-Msg-Id: another"), "outbox_request_ids_are_headers"),
        (requested("1\nNats-Msg-Id: another"), "outbox_request_ids_are_headers"),
        (requested(&"x".repeat(256)), "value too long for type character varying(255)"),
        (subject(1_025), "outbox_subject_is_short"),
        (subject(1_100_000), "outbox_event_fits_a_message"),
    ] {
        // By itself, and behind one that is sound.
        for events in [vec![refused.clone()], vec![event("tested"), refused.clone()]] {
            let mut transaction = world.pool.begin().await.unwrap();
            match append(&mut transaction, SHARD, &events).await {
                Err(AppendError::Refused(reason)) => assert_eq!(reason, constraint),
                other => panic!("{constraint}: {other:?}"),
            }
            let more = sqlx::query("SELECT 1").execute(&mut *transaction).await;
            assert!(more.is_err(), "the transaction can only be rolled back");
            transaction.rollback().await.unwrap();
            assert_eq!(world.head(SHARD).await, 0);
        }
    }
    let largest = data(format!("\"{}\"", "x".repeat(65_534)));
    let longest = requested(&"x".repeat(255));
    assert_eq!(append_committed(&world, SHARD, &[key(&"x".repeat(64)), largest, longest]).await, 3);
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
    world.note_heads().await;
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
    assert!(halts(&world).await.contains("the outbox starts at position 999995"));
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
    let relay = Relay::new(Site::new(OUTLET, SHARD, connections.database, connections.nats), 1);
    let mut status = relay.status();
    let halted = status.wait_for(|status| status.halted.is_some());
    tokio::select! {
        status = halted => status.unwrap().halted.clone().unwrap().to_string(),
        never = relay.run() => match never {},
    }
}

async fn drop_stream(world: &World) {
    jetstream::new(world.nats().await).delete_stream(OUTLET.stream_of(SHARD)).await.unwrap();
}
