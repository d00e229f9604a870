//! A projection made again: readers see the old one until the new one is there, and nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coupon_dispatcher::connections::Connections;
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::projections;
use outbox_relay::projection::{ApplyError, Applying};
use outbox_relay::rebuild::{Rebuild, RebuildError};
use outbox_relay::{Event, NewEvent, Projection, Projector, Shard, Site};
use serde_json::{Map, Value, json};
use sqlx::PgConnection;
use tokio::sync::{mpsc, oneshot};

use crate::outbox::{append_committed, event};
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
        world.answered(&world.rush(campaign, 400).run().await).await;
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
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    world.change("ALTER TABLE wallet ENABLE ROW LEVEL SECURITY").await;
    let protected = world.coupon(&["rebuild", "wallet"]).await;
    assert_eq!(protected.code, Some(1));
    assert!(protected.err.contains("row security"), "{protected:?}");
    world.change("ALTER TABLE wallet DISABLE ROW LEVEL SECURITY").await;
    world.close().await;
}

#[tokio::test]
async fn readers_and_claims_go_on_while_a_projection_is_made_again() {
    let world = World::with_processes(&["api,relay", "project"]).await;
    let before = world.open_campaign(json!({ "quantity": 3_000 })).await;
    world.answered(&world.rush(before, 3_000).run().await).await;
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
    world.answered(&rush.await.unwrap()).await;
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
    world.answered(&world.rush(campaign, 500).run().await).await;
    world.balanced().await;
    let Connections { database, nats, .. } = world.connections().await.unwrap();
    let rebuild = || Rebuild {
        database: &database,
        nats: &nats,
        outlet: &OUTLET,
        shards: 1,
        projection: [projections::all().remove(0)],
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
    world.answered(&world.rush(campaign, 1_500).run().await).await;
    world.balanced().await;
    world.change("CREATE TABLE kept AS SELECT * FROM outbox WHERE position <= 1200").await;
    assert_eq!(world.change("DELETE FROM outbox WHERE position <= 1200").await, 1_200);
    world.change("DELETE FROM wallet").await;
    world.rebuilt("wallet").await;
    world.change("INSERT INTO outbox SELECT * FROM kept").await;
    world.close().await;
}

/// A projection that says when it is about to apply, and waits until it may. It takes objects only.
#[derive(Debug)]
struct Picky(Option<mpsc::Sender<oneshot::Sender<()>>>);

impl Projection for Picky {
    fn name(&self) -> &'static str {
        "picky"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["picky"]
    }

    fn apply<'a>(&'a self, transaction: &'a mut PgConnection, events: &'a [Event]) -> Applying<'a> {
        Box::pin(async move {
            if let Some(says) = &self.0 {
                let (go, may) = oneshot::channel();
                says.send(go).await.unwrap();
                may.await.unwrap();
            }
            for Event { position, data, .. } in events {
                serde_json::from_slice::<Map<String, Value>>(data)
                    .map_err(|source| ApplyError::Unreadable { position: *position, source })?;
                let applied = sqlx::query("INSERT INTO picky VALUES ($1)").bind(position);
                applied.execute(&mut *transaction).await?;
            }
            Ok(Vec::new())
        })
    }
}

/// It is neither applied nor known to the rebuilt projection, which must not take it for solved.
#[tokio::test]
async fn an_event_that_is_parked_while_the_tables_change_places_stays_parked() {
    let world = World::with_processes(&["api,relay", "project"]).await;
    world.change("CREATE TABLE picky (position bigint PRIMARY KEY)").await;
    world.append_events(11).await;
    append_committed(&world, Shard(0), &[NewEvent { data: "[]".to_owned(), ..event("tested") }]).await;
    world.balanced().await;
    let events: Vec<Event> =
        world.outbox(Shard(0)).await.iter().map(|event| event.to_event(&OUTLET)).collect();
    let Connections { database, nats, .. } = world.connections().await.unwrap();
    let live: Vec<Box<dyn Projection>> = vec![Box::new(Picky(None))];
    let site = Site::new(OUTLET, Shard(0), database.clone(), nats.clone());
    let live = Projector::new(site, "picky", live);
    let mut live = live.lead().await.unwrap();
    live.absorb(events[..10].to_vec()).await.unwrap();

    let (says, mut applies) = mpsc::channel(1);
    let rebuild = Rebuild {
        database: &database,
        nats: &nats,
        outlet: &OUTLET,
        shards: 1,
        projection: [Box::new(Picky(Some(says)))],
    };
    let meanwhile = async {
        let catches_up = applies.recv().await.unwrap();
        live.absorb(events[10..11].to_vec()).await.unwrap();
        catches_up.send(()).unwrap();
        let swaps = applies.recv().await.unwrap();
        let parks = live.absorb(events[11..].to_vec());
        let goes_on = async {
            wait_until("the event is parked, or has to wait", SOON, async || {
                let known: bool = sqlx::query_scalar(
                    "SELECT EXISTS (SELECT FROM parked_events) OR EXISTS \
                     (SELECT FROM pg_locks WHERE NOT granted AND relation = 'parked_events'::regclass)",
                )
                .fetch_one(&world.pool)
                .await
                .unwrap();
                known
            })
            .await;
            swaps.send(()).unwrap();
        };
        tokio::join!(parks, goes_on).0.unwrap();
    };
    assert_eq!(tokio::join!(rebuild.run(|_| {}), meanwhile).0.unwrap(), 11);
    let kept = "SELECT (SELECT count(*) FROM picky), (SELECT array_agg(position) FROM parked_events)";
    let kept: (i64, Vec<i64>) = sqlx::query_as(kept).fetch_one(&world.pool).await.unwrap();
    assert_eq!((kept, world.messages("COUPONS-DEAD").await.len()), ((11, vec![12]), 1));
    world.change("DELETE FROM parked_events").await;
    world.change("DELETE FROM projection_positions WHERE projection = 'picky'").await;
    world.close().await;
}
