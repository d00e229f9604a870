//! Retention: what may go from the outbox, and what may not.

use std::fs;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use coupon_dispatcher::connections::Connections;
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::servers::Setup;
use outbox_relay::Shard;
use outbox_relay::retention::{Dropped, Retention};
use ulid::Ulid;

use crate::support::World;

const DAY: Duration = Duration::from_secs(24 * 3_600);

impl World {
    /// One event of a shard at each of these positions, appended so many days ago.
    async fn events_at(&self, shard: i16, positions: &[i64], days_ago: i32) {
        for position in positions {
            sqlx::query("SELECT outbox_add_partitions($1)").bind(position).execute(&self.pool).await.unwrap();
        }
        sqlx::query(
            "INSERT INTO outbox (shard, position, event_id, type, key, subject, data, time) \
             SELECT $1, position, gen_random_uuid(), 'tested', 'K', 'K', '{}', now() - make_interval(days => $3) \
             FROM unnest($2::bigint[]) AS position",
        )
        .bind(shard)
        .bind(positions)
        .bind(days_ago)
        .execute(&self.pool)
        .await
        .unwrap();
        self.note_heads().await;
    }

    /// The events at these positions go to the end of the stream. What is between them is left out on both
    /// sides, so each begins an epoch.
    async fn publish_positions(&self, shard: i16, positions: &[i64]) {
        let name = OUTLET.stream_of(Shard(shard));
        let subjects = vec![OUTLET.subjects_of(Shard(shard))];
        let config = jetstream::stream::Config { name, subjects, ..Default::default() };
        let context = jetstream::new(self.nats().await);
        context.get_or_create_stream(config).await.unwrap();
        for position in positions {
            let subject = OUTLET.subject("tested", "K", Shard(shard));
            let message = PublishMessage::build().message_id(Ulid::generate().to_string());
            let stored = context.send_publish(subject, message).await.unwrap().await.unwrap();
            sqlx::query(
                "INSERT INTO outbox_epochs (shard, epoch, first_position, first_sequence, reason) \
                 VALUES ($1, $2, $3, $2, 'sparse')",
            )
            .bind(shard)
            .bind(i32::try_from(stored.sequence).unwrap())
            .bind(position)
            .execute(&self.pool)
            .await
            .unwrap();
        }
    }

    /// The stream is gone, and with it the epochs.
    async fn delete_stream(&self, shard: i16) {
        jetstream::new(self.nats().await).delete_stream(OUTLET.stream_of(Shard(shard))).await.unwrap();
        sqlx::query("DELETE FROM outbox_epochs WHERE shard = $1")
            .bind(shard)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    async fn applied_at(&self, projection: &str, shard: i16, position: i64) {
        sqlx::query("INSERT INTO projection_positions (projection, shard, position) VALUES ($1, $2, $3)")
            .bind(projection)
            .bind(shard)
            .bind(position)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    async fn partitions(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'outbox'::regclass ORDER BY 1")
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn partitions_go_when_they_are_old_and_confirmed() {
    let world = World::bare(2).await;
    world.migrate().await;
    let Connections { database, nats, .. } = world.connections().await.unwrap();
    let retention = Retention { outlet: OUTLET, shards: 2, projections: vec!["one", "other"], keep: DAY };
    let sweep = async || {
        let Dropped { partitions, failures } = retention.drop_old(&database, &nats).await.unwrap();
        assert!(failures.is_empty(), "{failures:?}");
        partitions
    };
    let all = world.partitions().await;
    assert_eq!(sweep().await, [0i64; 0], "an empty outbox keeps what it starts with");

    let of_first = [1, 999_999, 1_000_000, 1_999_999, 2_500_000, 2_999_999, 3_000_000, 4_000_000];
    let of_second = [1, 999_999, 1_000_000];
    world.events_at(0, &of_first, 2).await;
    world.events_at(1, &of_second, 2).await;
    for (projection, shard, position) in
        [("one", 0, 4_000_000), ("other", 0, 1_999_998), ("one", 1, 1_000_000), ("other", 1, 1_000_000)]
    {
        world.applied_at(projection, shard, position).await;
    }
    assert_eq!(sweep().await, [0i64; 0], "nothing is in the stream");
    world.publish_positions(0, &of_first).await;
    assert_eq!(sweep().await, [0i64; 0], "nothing of the second shard is in the stream");
    world.publish_positions(1, &of_second).await;
    assert_eq!(sweep().await, [0]);
    assert_eq!(sweep().await, [0i64; 0], "a projection has not applied the end of partition 1");

    world.applied_at("other", 0, 4_000_000).await;
    assert_eq!(sweep().await, [0i64; 0], "the second shard goes on in partition 1");
    world.events_at(1, &[1_999_999, 3_000_000], 2).await;
    world.publish_positions(1, &[1_999_999, 3_000_000]).await;
    world.applied_at("one", 1, 3_000_000).await;
    world.applied_at("other", 1, 3_000_000).await;
    sqlx::query("UPDATE outbox SET time = now() WHERE position = 2999999")
        .execute(&world.pool)
        .await
        .unwrap();
    assert_eq!(sweep().await, [1], "partition 2 has a young event");

    sqlx::query("UPDATE outbox SET time = now() - interval '2 days'").execute(&world.pool).await.unwrap();
    let mut reader = world.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM outbox").execute(&mut *reader).await.unwrap();
    assert_eq!(sweep().await, [0i64; 0], "it does not wait for a long transaction");
    reader.rollback().await.unwrap();
    assert_eq!(sweep().await, [2]);
    assert_eq!(sweep().await, [0i64; 0], "both shards may go on in partitions 3 and 4");

    let left = world.partitions().await;
    assert!(
        ["outbox_3", "outbox_4", "outbox_5"].iter().all(|name| left.contains(&(*name).to_owned())),
        "{left:?}"
    );
    assert!(all.iter().take(1).all(|name| !left.contains(name)), "{left:?}");
    sqlx::query("TRUNCATE outbox, projection_positions").execute(&world.pool).await.unwrap();
    for shard in [0, 1] {
        world.delete_stream(shard).await;
    }
    world.close().await;
}

/// It could not be put back from anywhere else.
#[tokio::test]
async fn nothing_goes_while_the_stream_lacks_anything_of_it() {
    let world = World::bare(1).await;
    world.migrate().await;
    let Connections { database, nats, .. } = world.connections().await.unwrap();
    let retention = Retention { outlet: OUTLET, shards: 1, projections: vec!["one"], keep: DAY };
    let sweep = async || {
        let Dropped { partitions, failures } = retention.drop_old(&database, &nats).await.unwrap();
        assert!(failures.is_empty(), "{failures:?}");
        partitions
    };
    let (old, young) = ([1, 2, 999_999], [1_000_000, 1_000_001, 3_000_000]);
    world.events_at(0, &old, 2).await;
    world.events_at(0, &young, 0).await;
    world.applied_at("one", 0, 3_000_000).await;
    let context = jetstream::new(world.nats().await);
    // The second event of partition 0, the first, and one of another partition.
    for lost in [2, 1, 5] {
        world.publish_positions(0, &[&old[..], &young].concat()).await;
        let stream = context.get_stream(OUTLET.stream_of(Shard(0))).await.unwrap();
        stream.delete_message(lost).await.unwrap();
        assert_eq!(sweep().await, [0i64; 0], "message {lost} is not in the stream");
        world.delete_stream(0).await;
    }
    world.publish_positions(0, &[&old[..], &young].concat()).await;
    assert_eq!(sweep().await, [0]);
    let stream = context.get_stream(OUTLET.stream_of(Shard(0))).await.unwrap();
    stream.delete_message(2).await.unwrap();
    sqlx::query("UPDATE outbox SET time = now() - interval '2 days'").execute(&world.pool).await.unwrap();
    assert_eq!(sweep().await, [1, 2], "the outbox no longer has what the stream lacks");
    sqlx::query("TRUNCATE outbox, projection_positions").execute(&world.pool).await.unwrap();
    world.delete_stream(0).await;
    world.close().await;
}

/// A shard of which nothing is known keeps its own events, and no others.
#[tokio::test]
async fn a_shard_that_fails_keeps_its_own_partitions_alone() {
    let mut world = World::bare(2).await;
    world.migrate().await;
    let (of_first, of_second) = ([1, 1_500_000, 2_500_000, 4_000_000], [2_500_000, 4_000_000]);
    for (shard, positions) in [(0, &of_first[..]), (1, &of_second)] {
        world.events_at(shard, positions, 2).await;
        world.publish_positions(shard, positions).await;
        world.applied_at("one", shard, 4_000_000).await;
    }
    // Nobody answers any more how the stream of the second shard is.
    let config = world.folder().join("silent.conf");
    fs::write(&config, "mappings: { \"$JS.API.STREAM.INFO.COUPONS-1\": \"nobody.answers\" }\n").unwrap();
    let arguments = vec!["-c".to_owned(), config.to_str().unwrap().to_owned()];
    world.servers.nats.restart_with(Setup { arguments, ..Setup::default() }).await.unwrap();

    let Connections { database, nats, .. } = world.connections().await.unwrap();
    let retention = Retention { outlet: OUTLET, shards: 2, projections: vec!["one"], keep: DAY };
    let Dropped { partitions, failures } = retention.drop_old(&database, &nats).await.unwrap();
    assert_eq!(partitions, [0, 1], "partition 2 has an event of the second shard");
    let failed: Vec<String> = failures.iter().map(|(shard, error)| format!("{shard}: {error}")).collect();
    assert!(failed.len() == 1 && failed[0].starts_with("1: NATS, stream COUPONS-1: "), "{failed:?}");

    world.servers.nats.restart_with(Setup::default()).await.unwrap();
    let Connections { database, nats, .. } = world.connections().await.unwrap();
    let Dropped { partitions, failures } = retention.drop_old(&database, &nats).await.unwrap();
    assert_eq!((partitions, failures.len()), (vec![2, 3], 0));
    sqlx::query("TRUNCATE outbox, projection_positions").execute(&world.pool).await.unwrap();
    for shard in [0, 1] {
        world.delete_stream(shard).await;
    }
    world.close().await;
}
