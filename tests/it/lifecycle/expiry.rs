//! Coupons expire by the clock of the database.

use coupon_dispatcher::ids::CouponId;
use serde_json::{Value, json};
use time::Duration;

use super::{act, changes_of, coupon_of, redeem, settled, state_of, told_of};
use crate::support::{Clock, SOON, World, wait_until};

async fn expired(world: &World) -> i64 {
    let count = "SELECT count(*) FROM coupon_changes WHERE kind = 'expired'";
    sqlx::query_scalar(count).fetch_one(&world.pool).await.unwrap()
}

/// What is used or cancelled does not expire; what is restored after its end does, at once.
#[tokio::test]
async fn a_coupon_that_is_not_used_expires() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "coupon_valid_for": "PT3S" })).await;
    let mut coupons = Vec::new();
    for user in ["alice", "bob", "carol", "dave"] {
        coupons.push(coupon_of(&world, campaign, user).await);
    }
    let [alice, bob, carol, dave] = &coupons[..] else { unreachable!() };
    assert_eq!(redeem(&world, alice, "order-1").await.status, 200);
    assert_eq!(act(&world, bob, "cancel", Value::Null).await.status, 200);
    wait_until("two coupons expire", SOON, async || expired(&world).await == 2).await;
    for (coupon, told) in [(carol, "expired"), (dave, "expired"), (bob, "cancelled"), (alice, "redeemed")] {
        assert_eq!(told_of(&world, coupon).await, ["issued", told]);
        assert_eq!(state_of(&world, coupon).await, told);
    }
    world.balanced().await;
    assert_eq!((settled(&world, alice).await, settled(&world, carol).await), (vec![500], vec![500, -500]));
    assert_eq!(changes_of(&world, carol).await[0].1, "clock");
    let restored = act(&world, alice, "restore", json!({ "order_ref": "order-1" })).await;
    assert_eq!((restored.status, &restored.body["kind"]), (200, &json!("restored")), "{restored:?}");
    assert_eq!(told_of(&world, alice).await, ["issued", "redeemed", "restored", "expired"]);
    assert_eq!(redeem(&world, alice, "order-2").await.problem(), "expired");
    world.balanced().await;
    assert_eq!(settled(&world, alice).await, [500, -500]);
    // The walk goes on behind those that have expired, and ends with the campaign.
    let late = coupon_of(&world, campaign, "eve").await;
    let closed = world.api().post(&format!("/v1/campaigns/{campaign}/close"), &Value::Null).await;
    assert_eq!(closed.status, 200);
    wait_until("the last one expires", SOON, async || expired(&world).await == 4).await;
    assert_eq!(told_of(&world, &late).await, ["issued", "expired"]);
    wait_until("the walk has ended", SOON, async || {
        let due = "SELECT expiry_due_at IS NULL FROM campaigns";
        sqlx::query_scalar(due).fetch_one(&world.pool).await.unwrap()
    })
    .await;
    world.balanced().await;
    world.close().await;
}

/// More than a walk looks at in one go, of several campaigns, with processes that are killed: each expires once.
#[tokio::test]
async fn thousands_of_coupons_expire_once_each_whoever_dies() {
    let mut world = World::with_processes(&["", "api"]).await;
    let ends = crate::support::in_seconds(8);
    let fields =
        json!({ "quantity": 2_500, "closes_at": ends, "coupon_expires_at": ends, "coupon_valid_for": null });
    let campaigns = [world.open_campaign(fields.clone()).await, world.open_campaign(fields).await];
    for campaign in campaigns {
        let results = world.rush(campaign, 2_500).run().await;
        world.promised(results.promised.into_keys());
    }
    let issued = world.coupons(campaigns[0]).await + world.coupons(campaigns[1]).await;
    wait_until("coupons expire", SOON, async || expired(&world).await > 0).await;
    world.processes[1].kill();
    world.processes[0].kill();
    for process in [0, 1] {
        world.processes[process].start().await;
    }
    wait_until("all have expired", 2 * SOON, async || expired(&world).await == issued).await;
    world.balanced().await;
    world.close().await;
}

/// No other clock than that of the database makes a coupon expire, or lets the walk pass it.
#[tokio::test]
async fn a_process_whose_clock_is_ahead_expires_nothing_early() {
    let mut world = World::bare(1).await;
    world.migrate().await;
    let clock = Clock::new(world.folder(), "ahead");
    clock.set(Duration::days(400));
    world.add_process_with(&clock).await;
    let campaign = world.open_campaign(json!({ "coupon_valid_for": "PT6S" })).await;
    let coupon = coupon_of(&world, campaign, "alice").await;
    sqlx::raw_sql("UPDATE campaigns SET expiry_due_at = now()").execute(&world.pool).await.unwrap();
    let is_looked_at = async || {
        let due = "SELECT expiry_due_at = (SELECT expires_at FROM coupons) FROM campaigns";
        sqlx::query_scalar::<_, bool>(due).fetch_one(&world.pool).await.unwrap()
    };
    wait_until("the campaign is looked at, and again when the coupon ends", SOON, is_looked_at).await;
    assert_eq!((expired(&world).await, state_of(&world, &coupon).await), (0, json!("issued")));
    wait_until("the coupon expires", SOON, async || expired(&world).await == 1).await;
    world.balanced().await;
    world.close().await;
}

/// A redemption and an expiry of the same moment: what is written first stands, and the other is refused.
#[tokio::test]
async fn of_a_redemption_and_an_expiry_one_wins() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "coupon_valid_for": "PT2S" })).await;
    let (used, late) = (coupon_of(&world, campaign, "alice").await, coupon_of(&world, campaign, "bob").await);
    assert_eq!(redeem(&world, &used, "order-1").await.status, 200);
    wait_until("the other expires", SOON, async || expired(&world).await == 1).await;
    assert_eq!(redeem(&world, &late, "order-2").await.problem(), "expired");
    // As the walk asks that has seen the coupon before it was redeemed.
    let id: CouponId = serde_json::from_value(used["id"].clone()).unwrap();
    let asked = "SELECT outcome, reasons FROM change_coupons(0::smallint, '{expired}', ARRAY [$1], ARRAY [$2], ARRAY [$3], \
                 ARRAY [gen_random_uuid()], ARRAY [gen_random_uuid()], '{clock}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', \
                 '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{f}')";
    let (outcome, reasons): (String, Vec<String>) = sqlx::query_as(asked)
        .bind(id)
        .bind(id.to_string())
        .bind(campaign.to_string())
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!((&*outcome, reasons), ("refused", vec!["already-redeemed".to_owned()]));
    assert_eq!(told_of(&world, &used).await, ["issued", "redeemed"]);
    world.balanced().await;
    world.close().await;
}

/// A database whose clock was a year ahead for a moment expires nothing afterwards before its time, and all of it then.
#[tokio::test]
async fn a_look_that_is_far_away_comes_within_the_hour() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    coupon_of(&world, campaign, "alice").await;
    let settled_down = async || {
        let due = "SELECT expiry_due_at BETWEEN now() + interval '50 minutes' AND now() + interval '61 minutes' FROM campaigns";
        sqlx::query_scalar::<_, bool>(due).fetch_one(&world.pool).await.unwrap()
    };
    sqlx::raw_sql("UPDATE campaigns SET expiry_due_at = now()").execute(&world.pool).await.unwrap();
    wait_until("the campaign is looked at again in an hour", SOON, settled_down).await;
    assert_eq!(expired(&world).await, 0);
    world.balanced().await;
    world.close().await;
}
