//! A request that is repeated on another process, while the first serves it still.

use std::time::Instant;

use coupon_dispatcher::idempotency::turns::TURN_WAIT_MAX;
use coupon_dispatcher::ids::CampaignId;
use serde_json::json;
use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinHandle;

use super::{KEY, assert_replayed, claim, keyed};
use crate::support::{Answer, SOON, World, in_seconds, wait_for, wait_until};

/// Whether the first request gets the last coupon is not known yet: the retry waits until it is, and takes no place from
/// others meanwhile. A user without a seat is told "sold out" at once, with a key too.
#[tokio::test]
async fn a_retry_elsewhere_waits_for_the_last_coupon_and_gets_the_answer_of_the_first() {
    let world = World::with_processes(&["", "api"]).await;
    let campaign = world.open_campaign(json!({ "per_user_limit": 2, "quantity": 2 })).await;
    assert_eq!(claim(&world.api(), campaign, "bob").await.status, 201);
    let (first, lock) = last_coupon_pending(&world, campaign).await;
    let elsewhere = world.processes[1].http().with(KEY, "one");
    let retry = tokio::spawn(async move { claim(&elsewhere, campaign, "alice").await });
    asks_again(&world, &retry).await;
    let waits = async || measured(&world, "claims_places_taken{shard=\"0\"}").await == 0;
    wait_until("it waits without a place", SOON, waits).await;
    let other = world.processes[1].http().with(KEY, "other");
    assert_eq!(claim(&other, campaign, "carol").await.problem(), "sold-out");
    assert!(!retry.is_finished());
    lock.commit().await.unwrap();
    let (first, retry) = (first.await.unwrap(), retry.await.unwrap());
    assert_eq!(first.status, 201, "{first:?}");
    assert_replayed(&retry, &first);
    assert_eq!(world.coupons(campaign).await, 2);
    world.close().await;
}

/// The process that serves the first request stands still.
#[tokio::test]
async fn a_retry_elsewhere_is_told_that_its_key_is_in_use_when_its_time_is_up() {
    let world = World::with_processes(&["", "api"]).await;
    let campaign = world.open_campaign(json!({ "per_user_limit": 2, "quantity": 2 })).await;
    assert_eq!(claim(&world.api(), campaign, "bob").await.status, 201);
    let (first, lock) = last_coupon_pending(&world, campaign).await;
    world.processes[0].freeze();
    let elsewhere = world.processes[1].http().with(KEY, "one");
    let asked = Instant::now();
    let early = claim(&elsewhere, campaign, "alice").await;
    assert_eq!((early.status, early.problem()), (409, "idempotency-key-in-use"), "{early:?}");
    assert_eq!(early.header("retry-after"), Some("1"), "{early:?}");
    assert!(asked.elapsed() >= TURN_WAIT_MAX, "{:?}", asked.elapsed());
    lock.commit().await.unwrap();
    world.processes[0].thaw();
    // Postgres has given up waiting: the first request has no effect.
    let first = first.await.unwrap();
    assert_eq!(first.status, 503, "{first:?}");
    let issued = async || claim(&elsewhere, campaign, "alice").await.status == 201;
    wait_until("the retry is issued the coupon", SOON, issued).await;
    assert_eq!(world.coupons(campaign).await, 2);
    world.close().await;
}

/// A client hangs up while it waits, and asks again on another connection.
#[tokio::test]
async fn a_retry_elsewhere_that_is_given_up_stands_in_nobodys_way() {
    let world = World::with_processes(&["", "api"]).await;
    let campaign = world.open_campaign(json!({ "per_user_limit": 2, "quantity": 2 })).await;
    assert_eq!(claim(&world.api(), campaign, "bob").await.status, 201);
    let (first, lock) = last_coupon_pending(&world, campaign).await;
    let elsewhere = world.processes[1].http().with(KEY, "one");
    let retry = elsewhere.clone();
    let retry = tokio::spawn(async move { claim(&retry, campaign, "alice").await });
    asks_again(&world, &retry).await;
    retry.abort();
    assert!(retry.await.unwrap_err().is_cancelled());
    let next = tokio::spawn(async move { claim(&elsewhere, campaign, "alice").await });
    lock.commit().await.unwrap();
    assert_replayed(&next.await.unwrap(), &first.await.unwrap());
    assert_eq!(measured(&world, "claims_places_taken{shard=\"0\"}").await, 0);
    world.close().await;
}

/// A claim of alice with the key "one" at the first process. It has the last seat, and waits for the lock.
async fn last_coupon_pending(
    world: &World,
    campaign: CampaignId,
) -> (JoinHandle<Answer>, Transaction<'static, Postgres>) {
    let here = keyed(world, "one");
    let mut lock = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE coupons IN SHARE ROW EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let first = tokio::spawn(async move { claim(&here, campaign, "alice").await });
    world.pending(campaign, 1).await;
    (first, lock)
}

/// What the second process measures.
async fn measured(world: &World, name: &str) -> u64 {
    let metrics = world.processes[1].http().get("/metrics").await.text;
    let mut values = metrics.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    values.next_back().unwrap()
}

/// The second process, which is asked nothing else, has asked the gate about this claim several times.
async fn asks_again(world: &World, retry: &JoinHandle<Answer>) {
    let asked = async || {
        assert!(!retry.is_finished(), "it does not wait");
        measured(world, "claims_gate_batch_size_count").await > 2
    };
    wait_until("it asks again", SOON, asked).await;
}

/// The gate says that the campaign is closed, and that the user has a seat: it may be that of the first request.
#[tokio::test]
async fn a_retry_elsewhere_is_not_told_that_it_is_closed_while_the_first_is_served() {
    let mut world = World::with_processes(&["", "api"]).await;
    world.processes[0].kill();
    // The batch of the first request waits until the campaign is closed.
    world.processes[0].set("FAILPOINTS", "writer.took=stall:9000@2");
    world.processes[0].start().await;
    let until = in_seconds(6);
    let campaign = world.open_campaign(json!({ "per_user_limit": 3, "closes_at": until })).await;
    assert_eq!(claim(&world.api(), campaign, "alice").await.status, 201);
    let here = keyed(&world, "one");
    let elsewhere = world.processes[1].http().with(KEY, "one");
    let first = tokio::spawn(async move { claim(&here, campaign, "alice").await });
    world.pending(campaign, 1).await;
    let until = OffsetDateTime::parse(&until, &Rfc3339).unwrap();
    wait_until("it is closed", SOON, async || OffsetDateTime::now_utc() > until).await;
    // It waits, and asks again only if its time is up: Postgres decides whether the first was in time, and the retry is told
    // the same.
    let again = wait_for("the retry is answered", SOON, async || {
        let asked = Instant::now();
        let again = claim(&elsewhere, campaign, "alice").await;
        let is_early = again.problem() == "idempotency-key-in-use";
        assert!(!is_early || asked.elapsed() >= TURN_WAIT_MAX, "{:?}", asked.elapsed());
        (!is_early).then_some(again)
    });
    let (again, first) = (again.await, first.await.unwrap());
    assert!([201, 410].contains(&first.status), "{first:?}");
    assert_eq!(again.status, first.status);
    for api in [keyed(&world, "two"), world.api()] {
        let late = claim(&api, campaign, "alice").await;
        assert_eq!((late.status, late.problem()), (410, "closed"), "{late:?}");
    }
    world.close().await;
}
