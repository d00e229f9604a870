//! Retention: what may go from the outbox, and what may not.

use std::time::Duration;

use async_nats::jetstream;
use coupon_dispatcher::app::Connections;
use coupon_dispatcher::event::OUTLET;
use outbox_relay::Shard;
use outbox_relay::retention::Retention;

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

    /// A stream that has had messages up to this sequence.
    async fn stream_at(&self, shard: i16, sequence: u64) {
        let name = OUTLET.stream_of(Shard(shard));
        let subjects = vec![OUTLET.subjects_of(Shard(shard))];
        let config = jetstream::stream::Config { name, subjects, ..Default::default() };
        let stream = jetstream::new(self.nats().await).get_or_create_stream(config).await.unwrap();
        stream.purge().sequence(sequence + 1).await.unwrap();
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
    let sweep = async || retention.sweep(&database, &nats).await.unwrap();
    let all = world.partitions().await;
    assert_eq!(sweep().await, [0i64; 0], "an empty outbox keeps what it starts with");

    world.events_at(0, &[1, 999_999, 1_000_000, 1_999_999, 2_999_999, 3_000_000, 4_000_000], 2).await;
    world.events_at(1, &[1, 999_999, 1_000_000], 2).await;
    for (projection, shard, position) in
        [("one", 0, 4_000_000), ("other", 0, 1_999_998), ("one", 1, 1_000_000), ("other", 1, 1_000_000)]
    {
        world.applied_at(projection, shard, position).await;
    }
    assert_eq!(sweep().await, [0i64; 0], "nothing is in the stream");
    world.stream_at(0, 4_000_000).await;
    assert_eq!(sweep().await, [0i64; 0], "nothing of the second shard is in the stream");
    world.stream_at(1, 1_000_000).await;
    assert_eq!(sweep().await, [0]);
    assert_eq!(sweep().await, [0i64; 0], "a projection has not applied the end of partition 1");

    world.applied_at("other", 0, 4_000_000).await;
    assert_eq!(sweep().await, [0i64; 0], "the second shard goes on in partition 1");
    world.events_at(1, &[1_999_999, 3_000_000], 2).await;
    world.stream_at(1, 3_000_000).await;
    world.applied_at("one", 1, 3_000_000).await;
    world.applied_at("other", 1, 3_000_000).await;
    world.events_at(0, &[2_500_000], 2).await;
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
        jetstream::new(world.nats().await).delete_stream(OUTLET.stream_of(Shard(shard))).await.unwrap();
    }
    world.close().await;
}
