//! The audit that goes on while the service runs.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use coupon_dispatcher::audit::{AuditRound, Auditor};
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::gate::client::Client;
use outbox_relay::Shard;
use redis::AsyncCommands as _;
use serde_json::json;
use ulid::Ulid;
use uuid::Uuid;

use crate::audit::Scene;
use crate::support::{Line, Proxy, SOON, World, wait_until};

const SHARD: Shard = Shard(0);
/// For two rounds of a process that serves, and some more.
const ROUNDS: Duration = Duration::from_secs(60);

/// What one more round comes to.
async fn round(auditor: &mut Auditor) -> AuditRound {
    auditor.round().await.unwrap();
    auditor.latest().borrow().clone().unwrap()
}

/// Only the second round in which something differs says so.
async fn reported(auditor: &mut Auditor, words: &[&str]) -> AuditRound {
    let verdict = round(auditor).await;
    assert!(verdict.balanced, "it may be on its way: {verdict:?}");
    let verdict = round(auditor).await;
    let difference = verdict.first_difference.as_ref().unwrap().to_string();
    for word in words {
        assert!(difference.contains(word), "no {word:?} in {difference:?}");
    }
    assert!(!verdict.balanced);
    verdict
}

#[tokio::test]
async fn what_differs_at_rest_is_reported_until_it_does_no_more() {
    let mut scene = Scene::start().await;
    let mut auditor = Auditor::new(scene.world.connections().await.unwrap(), 1);
    assert_eq!(*auditor.latest().borrow(), None);
    assert!(round(&mut auditor).await.balanced);
    let (campaign, coupon) = (scene.campaign.to_string(), scene.coupon.to_string());

    // Its sweeper would put the gate right, also after a coupon that is missing for a moment.
    scene.world.processes[0].kill();
    for (table, column, name) in [
        ("wallet", "coupon_id", "wallet"),
        ("settlement_entries", "coupon_id", "settlement"),
        ("coupons", "id", "outbox"),
    ] {
        let row = scene.take(table, &scene.is_the_coupon(column)).await;
        reported(&mut auditor, &[&campaign, &coupon, name]).await;
        scene.put(row).await;
        assert!(round(&mut auditor).await.balanced);
    }
    let () = scene.world.redis().await.sadd(scene.holders(), "a-thief").await.unwrap();
    reported(&mut auditor, &[&campaign, "20 coupons, 21 seats"]).await;
    let () = scene.world.redis().await.srem(scene.holders(), "a-thief").await.unwrap();
    assert!(round(&mut auditor).await.balanced);
    scene.world.close().await;
}

#[tokio::test]
async fn what_the_stream_has_lost_is_reported() {
    let mut scene = Scene::start().await;
    let mut auditor = Auditor::new(scene.world.connections().await.unwrap(), 1);
    assert!(round(&mut auditor).await.balanced);
    let events = scene.world.outbox(SHARD).await;
    let stream = jetstream::new(scene.world.nats().await).get_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    stream.delete_message(4).await.unwrap();
    let verdict = round(&mut auditor).await; // it cannot be on its way
    let words = verdict.first_difference.map(|found| found.to_string());
    assert_eq!(words.as_deref(), Some("1 messages are missing from stream COUPONS-0"));
    assert_eq!((verdict.balanced, verdict.drift), (false, 1));
    scene.remake_stream().await;
    assert!(round(&mut auditor).await.balanced);

    // Rows of the outbox that nobody published so.
    let pool = &scene.world.pool;
    sqlx::query("UPDATE outbox SET event_id = gen_random_uuid() WHERE position = 5")
        .execute(pool)
        .await
        .unwrap();
    let verdict = reported(&mut auditor, &["position 5 is event"]).await;
    assert_eq!(verdict.drift, 1);
    sqlx::query("UPDATE outbox SET event_id = $1 WHERE position = 5")
        .bind(Uuid::from(events[4].id))
        .execute(pool)
        .await
        .unwrap();
    assert!(round(&mut auditor).await.balanced);

    // A relay that has come to a halt.
    scene.world.processes[2].kill();
    assert_eq!(scene.world.claim(scene.campaign, "the-last").await.status, 201);
    let verdict = reported(&mut auditor, &["ends at", "the outbox at"]).await;
    assert_eq!(verdict.drift, 1);
    scene.world.processes[2].start().await;
    scene.world.balanced().await;
    assert!(round(&mut auditor).await.balanced);
    scene.world.close().await;
}

/// More than a round compares: the tour goes on, and what differed is looked at besides.
#[tokio::test]
async fn a_difference_that_stands_keeps_nothing_from_being_compared() {
    let world = World::with_processes(&["api,relay", "project"]).await;
    for _ in 0..6 {
        world.append_events(2_000).await;
    }
    world.balanced().await;
    let mut auditor = Auditor::new(world.connections().await.unwrap(), 1);
    for _ in 0..3 {
        assert!(round(&mut auditor).await.balanced); // once around
    }
    let events = world.outbox(SHARD).await;
    let (early, late) = (&events[4], &events[10_999]);
    let set_id = async |position: i64, id: Uuid| {
        let update = sqlx::query("UPDATE outbox SET event_id = $2 WHERE position = $1");
        update.bind(position).bind(id).execute(&world.pool).await.unwrap();
    };
    for event in [early, late] {
        set_id(event.position, Uuid::from(Ulid::generate())).await;
    }
    // Stays, whatever else the rounds compare; the other is come across.
    let mut rounds = Vec::new();
    for _ in 0..6 {
        rounds.push(round(&mut auditor).await);
    }
    let named = rounds[2..].iter().all(|verdict| {
        verdict
            .first_difference
            .as_ref()
            .is_some_and(|found| found.to_string().contains("position 5 is event"))
    });
    assert!(named && rounds.iter().any(|verdict| verdict.drift == 2), "{rounds:?}");
    set_id(early.position, early.id.into()).await;
    let mut words = String::new();
    for _ in 0..6 {
        words.extend(round(&mut auditor).await.first_difference.map(|found| found.to_string()));
    }
    assert!(words.contains("position 11000 is event") && !words.contains("position 5 "), "{words}");
    set_id(late.position, late.id.into()).await;
    assert!(round(&mut auditor).await.balanced);
    world.close().await;
}

#[tokio::test]
async fn a_side_that_stands_still_is_reported_under_traffic() {
    let mut world = World::with_processes(&["api", "project", "relay"]).await;
    world.append_events(5).await;
    world.balanced().await;
    let mut auditor = Auditor::new(world.connections().await.unwrap(), 1);
    for (process, stands) in [(1, "wallet has applied shard 0 up to "), (2, "stream COUPONS-0 ends at ")] {
        let stands = format!("{stands}{}", world.head(SHARD).await);
        world.processes[process].kill();
        for lags in [false, true, true] {
            world.append_events(1).await;
            if process == 1 {
                world.assert_published().await;
            }
            let verdict = round(&mut auditor).await;
            let named = verdict.first_difference.is_some_and(|found| found.to_string().contains(&stands));
            assert_eq!((named, verdict.balanced), (lags, !lags), "{stands}");
        }
        world.processes[process].start().await;
        world.balanced().await;
        assert!(round(&mut auditor).await.balanced);
    }
    world.close().await;
}

/// How far the stream and the projections have come, and how far the outbox goes.
async fn reached(world: &World) -> ([i64; 3], i64) {
    let [wallet, settlement] = ["wallet", "settlement"].map(|name| {
        let position = sqlx::query_scalar("SELECT projection_position($1, 0::smallint)");
        position.bind(name).fetch_one(&world.pool)
    });
    let positions = [world.end_of_stream(SHARD).await, wallet.await.unwrap(), settlement.await.unwrap()];
    (positions, world.head(SHARD).await)
}

/// From one round to the next every side goes on, as it does within ten seconds.
#[tokio::test]
async fn a_rush_is_no_difference() {
    let world = World::with_processes(&["api,relay", "api,project", ""]).await;
    let mut auditor = Auditor::new(world.connections().await.unwrap(), 1);
    // Each with at least one round before its end.
    for _ in 0..3 {
        let campaign = world.open_campaign(json!({ "quantity": 2_500 })).await;
        let rush = tokio::spawn(world.rush(campaign, 3_000).run());
        let mut issued = 0;
        while issued < 2_500 {
            world.issued(campaign, (issued + 50).min(2_500)).await; // it goes on
            issued = world.coupons(campaign).await;
            let verdict = round(&mut auditor).await;
            assert!(verdict.balanced, "at {issued}: {verdict:?}");
            let (before, _) = reached(&world).await;
            wait_until("every side goes on", SOON, async || {
                let (now, head) = reached(&world).await;
                now.iter().zip(before).all(|(now, before)| *now > before || *now == head)
            })
            .await;
        }
        world.answered(&rush.await.unwrap()).await;
    }
    world.balanced().await;
    for _ in 0..2 {
        assert!(round(&mut auditor).await.balanced);
    }
    world.close().await;
}

/// One question for each of them would take more than three minutes.
#[tokio::test]
async fn a_round_costs_what_is_live_and_not_what_is_over() {
    let world = World::with_processes(&["api,relay", "project"]).await;
    let campaign = world.open_campaign(json!({})).await;
    world.balanced().await; // what is on its way is a difference in two rounds, if it takes as long
    sqlx::query(
        "INSERT INTO campaigns (id, shard, name, merchant_id, face_value, currency, quantity, per_user_limit, \
         opens_at, closes_at, coupon_valid_for, settle_on, state) \
         SELECT gen_random_uuid(), shard, name, merchant_id, face_value, currency, quantity, per_user_limit, \
         now() - interval '2 days', now() - interval '1 day', 86400, settle_on, 'closed' \
         FROM campaigns, generate_series(1, 10000) WHERE id = $1",
    )
    .bind(Uuid::from(campaign.0))
    .execute(&world.pool)
    .await
    .unwrap();
    let wire = Proxy::to(([127, 0, 0, 1], world.servers.redis.port()).into()).await;
    wire.set(Line::Slow(Duration::from_millis(10)));
    let mut connections = world.connections().await.unwrap();
    connections.redis = Client::open([&*format!("redis://{}", wire.address)]).unwrap();
    let mut auditor = Auditor::new(connections, 1);
    for _ in 0..2 {
        let began = Instant::now();
        let verdict = round(&mut auditor).await;
        assert!(verdict.balanced, "{verdict:?}");
        // One after the other the gates of all take 100 s.
        assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    }
    world.close().await;
}

#[tokio::test]
async fn one_of_the_processes_audits_and_another_takes_over() {
    let mut scene = Scene::start().await;
    let first = scene.world.leader("auditor", SHARD).await;
    let other = scene.world.add_process("project").await;
    scene.world.processes[1].kill();
    wait_until("the other audits", ROUNDS, async || {
        scene.world.try_leader("auditor", SHARD).await.is_some_and(|pid| pid != first)
    })
    .await;
    let row = scene.take("wallet", &scene.is_the_coupon("coupon_id")).await;
    let log = |scene: &Scene| scene.world.processes[other].log();
    let words = format!("coupon {} is not in the wallet", scene.coupon);
    wait_until("the difference is in the log", ROUNDS, async || log(&scene).contains(&words)).await;
    scene.put(row).await;
    wait_until("its end is in the log", ROUNDS, async || log(&scene).contains("balanced again")).await;
    assert_eq!(log(&scene).matches(&words).count(), 1);
    scene.world.close().await;
}
