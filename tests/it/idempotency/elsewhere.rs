//! A request that is repeated on another process, while the first serves it still.

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{KEY, assert_replayed, claim, keyed};
use crate::support::{SOON, World, in_seconds, wait_for, wait_until};

/// Whether the first request gets the last coupon is not known yet: no other process says that there is none.
#[tokio::test]
async fn a_retry_elsewhere_is_not_told_that_all_is_sold_out_while_the_first_is_served() {
    let world = World::with_processes(&["", "api"]).await;
    let campaign = world.open_campaign(json!({ "per_user_limit": 2, "quantity": 2 })).await;
    assert_eq!(claim(&world.api(), campaign, "bob").await.status, 201);
    let here = keyed(&world, "one");
    let elsewhere = world.processes[1].http().with(KEY, "one");
    let mut lock = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE coupons IN SHARE ROW EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let first = tokio::spawn(async move { claim(&here, campaign, "alice").await });
    world.pending(campaign, 1).await;
    let early = claim(&elsewhere, campaign, "alice").await;
    assert_eq!((early.status, early.problem()), (409, "idempotency-key-in-use"), "{early:?}");
    assert!(early.header("retry-after").is_some(), "{early:?}");
    lock.commit().await.unwrap();
    let first = first.await.unwrap();
    assert_eq!(first.status, 201, "{first:?}");
    assert_replayed(&claim(&elsewhere, campaign, "alice").await, &first);
    world.close().await;
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
    let early = claim(&elsewhere, campaign, "alice").await;
    assert_eq!((early.status, early.problem()), (409, "idempotency-key-in-use"), "{early:?}");
    // Postgres decides whether the first was in time, and the retry is told the same, once the gate has heard of it.
    let first = first.await.unwrap();
    assert!([201, 410].contains(&first.status), "{first:?}");
    let again = wait_for("the retry is answered", SOON, async || {
        let again = claim(&elsewhere, campaign, "alice").await;
        (again.problem() != "idempotency-key-in-use").then_some(again)
    });
    assert_eq!(again.await.status, first.status);
    for api in [keyed(&world, "two"), world.api()] {
        let late = claim(&api, campaign, "alice").await;
        assert_eq!((late.status, late.problem()), (410, "closed"), "{late:?}");
    }
    world.close().await;
}
