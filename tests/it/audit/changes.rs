//! Changes of coupons: whatever one side has otherwise is found and named.

use serde_json::{Value, json};

use super::{FULL, QUICK, Scene};

/// A change of each kind of one coupon of each campaign, of which one counts from the issue on and one when it is redeemed.
async fn with_changes() -> (Scene, String, String) {
    let scene = Scene::start().await;
    let redeemed: uuid::Uuid =
        sqlx::query_scalar("SELECT id FROM coupons WHERE campaign_id = $1 AND number = 3")
            .bind(uuid::Uuid::from(scene.other.0))
            .fetch_one(&scene.world.pool)
            .await
            .unwrap();
    let (cancelled, redeemed) = (scene.coupon.to_string(), ulid::Ulid::from(redeemed).to_string());
    let order = json!({ "order_ref": "order-1", "amount": 300 });
    for (coupon, action, body) in [
        (&redeemed, "redeem", order.clone()),
        (&redeemed, "restore", json!({ "order_ref": "order-1" })),
        (&redeemed, "redeem", json!({ "order_ref": "order-2" })),
        (&cancelled, "cancel", Value::Null),
    ] {
        let answer = scene.world.api().post(&format!("/v1/coupons/{coupon}/{action}"), &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    scene.world.balanced().await;
    (scene, cancelled, redeemed)
}

#[tokio::test]
async fn what_one_side_has_otherwise_of_a_change_is_named() {
    let (scene, cancelled, redeemed) = with_changes().await;
    let id = uuid::Uuid::from(redeemed.parse::<ulid::Ulid>().unwrap());
    let of = |nth: i32| format!("coupon_id = '{id}' AND nth = {nth}");
    let is_cancelled = scene.is_the_coupon("coupon_id");
    for (table, change, back, condition, coupon, words) in [
        ("coupon_changes", "amount = 299", "amount = 300", of(1), &redeemed, "in coupon_changes"),
        ("coupon_changes", "order_ref = 'x'", "order_ref = 'order-2'", of(3), &redeemed, "in coupon_changes"),
        (
            "coupon_changes",
            "kind = 'expired'",
            "kind = 'cancelled'",
            is_cancelled.clone(),
            &cancelled,
            "in coupon_changes",
        ),
        (
            "wallet_changes",
            "kind = 'cancelled'",
            "kind = 'restored'",
            of(2),
            &redeemed,
            "in wallet, restored at",
        ),
        (
            "wallet_changes",
            "at = at + interval '1 second'",
            "at = at - interval '1 second'",
            of(3),
            &redeemed,
            "in wallet",
        ),
        ("settlement_entries", "amount = 299", "amount = 300", of(1), &redeemed, "entries add up to 499"),
        (
            "settlement_entries",
            "nth = 7",
            "nth = 2",
            format!("coupon_id = '{id}' AND amount = -300"),
            &redeemed,
            "nothing in settlement, -300 expected",
        ),
    ] {
        scene.execute(&format!("UPDATE {table} SET {change} WHERE {condition}")).await;
        scene.assert_named(FULL, &[words]).await;
        if !words.starts_with("entries") {
            scene.assert_named(FULL, &[coupon]).await;
        }
        scene.execute(&format!("UPDATE {table} SET {back} WHERE {condition}")).await;
        scene.assert_balanced(FULL).await;
    }
    scene.world.close().await;
}

#[tokio::test]
async fn a_change_that_one_side_lacks_or_has_alone_is_named() {
    let (scene, cancelled, _) = with_changes().await;
    let row = scene.is_the_coupon("coupon_id");
    let campaign = scene.campaign.to_string();
    for (table, condition, words) in [
        ("coupon_changes", row.clone(), "missing in coupon_changes"),
        ("wallet_changes", row.clone(), "wallet: 0 changes, 1 expected"),
        ("settlement_entries", format!("{row} AND kind = 'reversal'"), "settlement: 20 rows, 21 expected"),
    ] {
        let taken = scene.take(table, &condition).await;
        scene.assert_named(FULL, &[&campaign, words]).await;
        scene.put(taken).await;
        scene.assert_balanced(FULL).await;
    }
    scene.execute(&format!(
        "INSERT INTO wallet_changes SELECT coupon_id, 9, kind, campaign_id, at FROM wallet_changes WHERE {row}"
    )).await;
    scene.assert_named(FULL, &["wallet: 2 changes, 1 expected", &cancelled]).await;
    // The quick audit counts no rows.
    scene.assert_balanced(QUICK).await;
    scene.execute("DELETE FROM wallet_changes WHERE nth = 9").await;
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}
