//! Many tills at once.

use std::collections::HashSet;

use futures_util::future::join_all;
use serde_json::json;

use super::{act, changes_of, coupon_of, redeem, told_of};
use crate::support::World;

/// Of many tills that redeem a coupon at the same moment, at several processes, one gets it, and the others are told which.
#[tokio::test]
async fn a_coupon_is_redeemed_once_however_many_tills_want_it() {
    let world = World::with_processes(&["", "api", "api"]).await;
    let campaign = world.open_campaign(json!({ "settle_on": "redeem" })).await;
    for round in 0..5 {
        let coupon = coupon_of(&world, campaign, &format!("user-{round}")).await;
        let tills = (0..30).map(|till| {
            let (path, api) = (super::path(&coupon, "redeem"), world.processes[till % 3].http());
            let body = json!({ "order_ref": format!("order-{round}-{till}") });
            async move { api.post(&path, &body).await }
        });
        let answers = join_all(tills).await;
        let winners: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        for refused in answers.iter().filter(|answer| answer.status != 200) {
            assert_eq!((refused.status, refused.problem()), (409, "already-redeemed"), "{refused:?}");
            assert_eq!(refused.body["last_change"], winners[0].body);
        }
        assert_eq!(changes_of(&world, &coupon).await.len(), 1);
        assert_eq!(told_of(&world, &coupon).await, ["issued", "redeemed"]);
    }
    world.balanced().await;
    world.close().await;
}

/// An order redeems one coupon, also when the coupons are of several shards, whose writers do not know each other.
#[tokio::test]
async fn an_order_redeems_one_coupon_of_its_merchant() {
    let mut world = World::bare(4).await;
    world.migrate().await;
    for roles in ["", "api"] {
        world.add_process(roles).await;
    }
    let mut coupons = Vec::new();
    for number in 0..8 {
        let campaign = world.open_campaign(json!({})).await;
        coupons.push(coupon_of(&world, campaign, &format!("user-{number}")).await);
    }
    let shards: HashSet<i16> = sqlx::query_scalar("SELECT shard FROM campaigns")
        .fetch_all(&world.pool)
        .await
        .unwrap()
        .into_iter()
        .collect();
    assert!(shards.len() > 1, "{shards:?}");
    for round in 0..10 {
        let order = format!("order-{round}");
        let tills = coupons.iter().enumerate().map(|(n, coupon)| {
            let (path, api) = (super::path(coupon, "redeem"), world.processes[n % 2].http());
            let body = json!({ "order_ref": order });
            async move { api.post(&path, &body).await }
        });
        let answers = join_all(tills).await;
        let winners: Vec<_> = (0..coupons.len()).filter(|n| answers[*n].status == 200).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        let others = answers.iter().filter(|answer| answer.status != 200);
        for refused in others {
            assert_eq!((refused.status, refused.problem()), (409, "order-ref-used"), "{refused:?}");
        }
        let restored = act(&world, &coupons[winners[0]], "restore", json!({ "order_ref": order })).await;
        assert_eq!(restored.status, 200, "{restored:?}");
        let again = redeem(&world, &coupons[winners[0]], &order).await;
        assert_eq!(
            again.header("idempotency-replayed"),
            Some("true"),
            "the order is told what it did: {again:?}"
        );
    }
    world.balanced().await;
    // Another merchant has orders of its own.
    let other = world.open_campaign(json!({ "merchant_id": "merchant-2" })).await;
    let coupon = coupon_of(&world, other, "alice").await;
    assert_eq!(redeem(&world, &coupon, "order-0").await.status, 200);
    world.balanced().await;
    world.close().await;
}
