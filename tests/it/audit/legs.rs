//! No leg can be forgotten: each has a difference that it alone can see.

use coupon_dispatcher::audit::{LegName, legs};
use redis::AsyncCommands as _;
use serde_json::{Value, json};
use sqlx::raw_sql;

use super::{SHARD, Scene};

/// What only one leg sees: the counts agree, and so does every other leg.
struct Plant {
    leg: &'static str,
    /// The kind of the difference, in JSON.
    kind: &'static str,
    /// SQL; nothing for the gate.
    change: String,
    back: String,
}

fn plant(leg: &'static str, kind: &'static str, change: &str, back: &str, condition: &str) -> Plant {
    let [change, back] = [change, back].map(|statements| statements.replace("{}", condition));
    Plant { leg, kind, change, back }
}

async fn plants(scene: &Scene) -> Vec<Plant> {
    let (coupon, row) = (scene.is_the_coupon("id"), scene.is_the_coupon("coupon_id"));
    let events = scene.world.outbox(SHARD).await;
    let event = events.iter().find(|event| event.subject == scene.coupon.to_string()).unwrap();
    let position = format!("position = {}", event.position);
    let event_id = uuid::Uuid::from(event.id);
    // The wallet is compared with the coupon, and so agrees.
    let both = |change: &str| format!("UPDATE coupons {change} {coupon}; UPDATE wallet {change} {row}");
    vec![
        plant("gate", "seat_missing", "", "", ""),
        plant(
            "coupons",
            "oversold",
            "UPDATE campaigns SET quantity = 19 WHERE {}",
            "UPDATE campaigns SET quantity = 30 WHERE {}",
            &scene.is_the_campaign().replace("campaign_id", "id"),
        ),
        plant(
            "outbox",
            "announced_with_other_data",
            &both("SET expires_at = expires_at + interval '1 day' WHERE"),
            &both("SET expires_at = expires_at - interval '1 day' WHERE"),
            "",
        ),
        plant(
            "stream",
            "other_event",
            "UPDATE outbox SET event_id = gen_random_uuid() WHERE {}",
            &format!("UPDATE outbox SET event_id = '{event_id}' WHERE {{}}"),
            &position,
        ),
        plant(
            "wallet",
            "other_value",
            "UPDATE wallet SET face_value = 501 WHERE {}",
            "UPDATE wallet SET face_value = 500 WHERE {}",
            &row,
        ),
        plant(
            "settlement",
            "other_value",
            "UPDATE settlement_entries SET merchant_id = 'a-thief' WHERE {}",
            "UPDATE settlement_entries SET merchant_id = 'merchant-1' WHERE {}",
            &row,
        ),
        plant(
            "changes",
            "change",
            "UPDATE wallet_changes SET kind = 'cancelled' WHERE {}",
            "UPDATE wallet_changes SET kind = 'redeemed' WHERE {}",
            &row,
        ),
    ]
}

#[tokio::test]
async fn each_leg_sees_what_no_other_leg_does() {
    let mut scene = Scene::start().await;
    let redeem = format!("/v1/coupons/{}/redeem", scene.coupon);
    assert_eq!(scene.world.api().post(&redeem, &json!({ "order_ref": "order-1" })).await.status, 200);
    scene.world.balanced().await;
    let plants = plants(&scene).await;
    let names: Vec<_> = legs().into_iter().map(LegName::as_str).collect();
    assert_eq!(plants.iter().map(|plant| plant.leg).collect::<Vec<_>>(), names, "a leg without a difference");
    scene.world.processes[0].kill(); // its sweeper would put the gate right
    let mut redis = scene.world.redis().await;
    for Plant { leg, kind, change, back } in plants {
        if leg == "gate" {
            let () = redis.srem(scene.holders(), &scene.user).await.unwrap();
            let () = redis.sadd(scene.holders(), "a-thief").await.unwrap();
        } else {
            raw_sql(&change).execute(&scene.world.pool).await.unwrap();
        }
        let finished = scene.world.coupon(&["audit", "--full", "--json"]).await;
        assert_eq!(finished.code, Some(1), "{leg}: {finished:?}");
        let said: Value = serde_json::from_str(&finished.out).unwrap();
        let found = &said["sheet"]["first_difference"];
        assert_eq!((&found["leg"], &found["kind"]), (&json!(leg), &json!(kind)), "{found}");
        if leg == "gate" {
            let () = redis.srem(scene.holders(), "a-thief").await.unwrap();
            let () = redis.sadd(scene.holders(), &scene.user).await.unwrap();
        } else {
            raw_sql(&back).execute(&scene.world.pool).await.unwrap();
        }
        scene.assert_balanced(super::FULL).await;
    }
    scene.world.close().await;
}

/// A console needs no words to lead to what differs.
#[tokio::test]
async fn a_difference_is_data_beside_its_words() {
    let scene = Scene::start().await;
    let audited = async || {
        let finished = scene.world.coupon(&["audit", "--full", "--json"]).await;
        serde_json::from_str::<Value>(&finished.out).unwrap()["sheet"].take()
    };
    assert_eq!(audited().await["first_difference"], Value::Null);
    let row = scene.take("wallet", &scene.is_the_coupon("coupon_id")).await;
    let (campaign, coupon) = (scene.campaign, scene.coupon);
    let sheet = audited().await;
    let difference = |kind, coupon, figures: [Value; 2], example| {
        let [expected, found] = figures;
        json!({
            "leg": "wallet", "kind": kind, "shard": 0, "campaign_id": campaign, "coupon_id": coupon,
            "position": null, "expected": expected, "found": found, "example": example,
        })
    };
    let example = difference("row_missing", json!(coupon), [json!(null), json!(null)], json!(null));
    let figure = difference("rows", json!(null), [json!(20), json!(19)], example);
    assert_eq!(sheet["first_difference"], figure);
    let words =
        format!("campaign {campaign}: wallet: 19 rows, 20 expected; coupon {coupon} is not in the wallet");
    assert_eq!(sheet["difference"], words);
    scene.put(row).await;
    scene.world.close().await;
}

/// Amounts add up beyond 64 bits.
#[tokio::test]
async fn an_amount_that_no_integer_holds_is_a_difference_and_no_error() {
    let scene = Scene::start().await;
    let set = async |amount: i64| {
        let statement =
            format!("UPDATE settlement_entries SET amount = {amount} WHERE {}", scene.is_the_campaign());
        sqlx::query(&statement).execute(&scene.world.pool).await.unwrap();
    };
    set(i64::MAX).await;
    let sum = (20 * i128::from(i64::MAX)).to_string();
    scene.assert_named(super::FULL, &[&format!("settlement: entries add up to {sum}, 10000 expected")]).await;
    let finished = scene.world.coupon(&["audit", "--full", "--json"]).await;
    let said: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!(said["sheet"]["first_difference"]["found"], json!(sum));
    set(500).await;
    scene.world.close().await;
}

/// All figures of a campaign at the limits of its fields: nothing overflows, and the sum is right.
#[tokio::test]
async fn a_campaign_at_its_limits_is_balanced() {
    let scene = Scene::start().await;
    // The API refuses more: a campaign that was created before it did.
    for (face_value, quantity) in [(100_000_000_000_i64, 10_000_000_i64), (i64::MAX, 10_000_000)] {
        let of_the_campaign = scene.is_the_campaign();
        let campaign = of_the_campaign.replace("campaign_id", "id");
        let statements = format!(
            "UPDATE campaigns SET face_value = {face_value}, quantity = {quantity} WHERE {campaign}; \
             UPDATE wallet SET face_value = {face_value} WHERE {of_the_campaign}; \
             UPDATE settlement_entries SET amount = {face_value} WHERE {of_the_campaign}"
        );
        raw_sql(&statements).execute(&scene.world.pool).await.unwrap();
        scene.assert_balanced(super::FULL).await;
        let finished = scene.world.coupon(&["audit", "--full", "--json"]).await;
        let said: Value = serde_json::from_str(&finished.out).unwrap();
        let campaigns = said["sheet"]["campaigns"].as_array().unwrap();
        let ours = campaigns.iter().find(|ours| ours["campaign_id"] == json!(scene.campaign)).unwrap();
        let amount = 20 * i128::from(face_value);
        let amount = i64::try_from(amount).map_or_else(|_| json!(amount.to_string()), |amount| json!(amount));
        assert_eq!(ours["settlement_amount"], amount);
    }
    scene.world.close().await;
}
