//! A projection made again: readers see the old one until the new one is there, and nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coupon_dispatcher::app::{Connections, projections};
use coupon_dispatcher::event::OUTLET;
use outbox_relay::rebuild::{Rebuild, RebuildError};
use serde_json::json;

use crate::support::{SOON, World, wait_until};

impl World {
    async fn rebuilt(&self, projection: &str) {
        let rebuilt = self.coupon(&["rebuild", projection]).await;
        assert!(rebuilt.out.contains(&format!("rebuilt {projection} from ")), "{rebuilt:?}");
    }

    async fn change(&self, statement: &str) -> u64 {
        sqlx::query(statement).execute(&self.pool).await.unwrap().rows_affected()
    }
}

#[tokio::test]
async fn a_damaged_projection_is_made_again() {
    let mut world = World::bare(2).await;
    world.migrate().await;
    world.add_process("").await;
    for settle_on in ["issue", "redeem", "issue"] {
        let campaign = world.open_campaign(json!({ "quantity": 300, "settle_on": settle_on })).await;
        world.answered(&world.rush(campaign, 400).run().await);
    }
    world.balanced().await;
    for (projection, damage) in [
        ("wallet", "DELETE FROM wallet WHERE user_id LIKE '%3'"),
        ("wallet", "UPDATE wallet SET face_value = 1"),
        ("settlement", "UPDATE settlement_entries SET amount = amount + 1"),
        ("settlement", "TRUNCATE settlement_entries"),
    ] {
        world.change(damage).await;
        world.rebuilt(projection).await;
        world.balanced().await;
    }
    let unknown = world.coupon(&["rebuild", "wallets"]).await;
    assert_eq!(unknown.code, Some(1));
    world.close().await;
}

#[tokio::test]
async fn readers_and_claims_go_on_while_a_projection_is_made_again() {
    let world = World::with_processes(&["api,relay", "project"]).await;
    let before = world.open_campaign(json!({ "quantity": 3_000 })).await;
    world.answered(&world.rush(before, 3_000).run().await);
    world.balanced().await;
    world.change("GRANT SELECT ON wallet TO pg_monitor").await;
    let campaign = world.open_campaign(json!({ "quantity": 4_000 })).await;
    let rush = tokio::spawn(world.rush(campaign, 4_000).run());
    world.issued(campaign, 300).await;

    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (pool, done) = (world.pool.clone(), done.clone());
        async move {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let count: i64 =
                    sqlx::query_scalar("SELECT count(*) FROM wallet").fetch_one(&pool).await.unwrap();
                assert!(count >= last, "{count} after {last}: a reader was shown an unfinished wallet");
                last = count;
            }
            last
        }
    });
    for _ in 0..3 {
        world.rebuilt("wallet").await;
    }
    done.store(true, Ordering::Relaxed);
    assert!(reader.await.unwrap() > 3_000);
    world.answered(&rush.await.unwrap());
    let granted: bool = sqlx::query_scalar("SELECT has_table_privilege('pg_monitor', 'wallet', 'SELECT')")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert!(granted, "rights go along");
    world.close().await;
}

#[tokio::test]
async fn a_rebuild_that_is_cut_off_leaves_everything_as_it_was() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 500 })).await;
    world.answered(&world.rush(campaign, 500).run().await);
    world.balanced().await;
    let Connections { database, nats, .. } = world.connections().await.unwrap();
    let rebuild = || Rebuild {
        database: &database,
        nats: &nats,
        outlet: &OUTLET,
        shards: 1,
        projection: [projections().remove(0)],
    };
    // Cut off after the first stretch; while it is at work there is no other.
    let first = rebuild();
    let (reached, mut waits) = tokio::sync::mpsc::channel(1);
    {
        let mut cut_off = std::pin::pin!(first.run(|_| reached.try_send(()).unwrap_or_default()));
        tokio::select! {
            biased;
            _ = waits.recv() => {}
            ended = &mut cut_off => panic!("{ended:?}"),
        }
        let refused = rebuild().run(|_| {}).await;
        assert!(matches!(refused, Err(RebuildError::AtWork("wallet"))), "{refused:?}");
    }
    world.balanced().await;
    wait_until("the lock is free", SOON, async || rebuild().run(|_| {}).await.is_ok()).await;
    world.close().await;
}

/// What is past retention comes from the stream.
#[tokio::test]
async fn what_the_outbox_no_longer_has_is_taken_from_the_stream() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 1_500 })).await;
    world.answered(&world.rush(campaign, 1_500).run().await);
    world.balanced().await;
    world.change("CREATE TABLE kept AS SELECT * FROM outbox WHERE position <= 1200").await;
    assert_eq!(world.change("DELETE FROM outbox WHERE position <= 1200").await, 1_200);
    world.change("DELETE FROM wallet").await;
    world.rebuilt("wallet").await;
    world.change("INSERT INTO outbox SELECT * FROM kept").await;
    world.close().await;
}
