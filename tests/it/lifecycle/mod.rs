//! What becomes of coupons: they are redeemed, restored, cancelled, and they expire.

mod expiry;
mod refused;
mod restock;
mod tills;

use coupon_dispatcher::ids::CampaignId;
use futures_util::future::join_all;
use outbox_relay::Shard;
use serde_json::{Value, json};

use crate::support::{Answer, World};

/// A coupon of a user.
async fn coupon_of(world: &World, campaign: CampaignId, user: &str) -> Value {
    let claimed = world.claim(campaign, user).await;
    assert_eq!(claimed.status, 201, "{claimed:?}");
    claimed.body
}

async fn act(world: &World, coupon: &Value, action: &str, body: Value) -> Answer {
    world.api().post(&path(coupon, action), &body).await
}

fn path(coupon: &Value, action: &str) -> String {
    format!("/v1/coupons/{}/{action}", coupon["id"].as_str().unwrap())
}

async fn redeem(world: &World, coupon: &Value, order: &str) -> Answer {
    act(world, coupon, "redeem", json!({ "order_ref": order })).await
}

async fn state_of(world: &World, coupon: &Value) -> Value {
    let shown = world.api().get(&format!("/v1/coupons/{}", coupon["id"].as_str().unwrap())).await;
    shown.body["state"].clone()
}

/// The changes of a coupon, the oldest first: kind, actor, order.
async fn changes_of(world: &World, coupon: &Value) -> Vec<(String, String, Value)> {
    let page = world.api().get(&path(coupon, "changes")).await;
    assert_eq!(page.status, 200, "{page:?}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let changes = page.body["changes"].as_array().unwrap().iter().rev();
    changes.map(|c| (text(&c["kind"]), text(&c["actor"]), c["order_ref"].clone())).collect()
}

/// Types of the events about a coupon, in their order.
async fn told_of(world: &World, coupon: &Value) -> Vec<String> {
    let id = coupon["id"].as_str().unwrap();
    let events = world.outbox(Shard(0)).await;
    events.into_iter().filter(|event| event.subject == id).map(|event| event.kind).collect()
}

/// Entries of a coupon in the settlement, in the order of changes.
async fn settled(world: &World, coupon: &Value) -> Vec<i64> {
    let id: coupon_dispatcher::ids::CouponId = serde_json::from_value(coupon["id"].clone()).unwrap();
    sqlx::query_scalar("SELECT amount FROM settlement_entries WHERE coupon_id = $1 ORDER BY nth")
        .bind(id)
        .fetch_all(&world.pool)
        .await
        .unwrap()
}

async fn in_wallet(world: &World, user: &str) -> Value {
    let wallet = world.api().get(&format!("/v1/users/{user}/coupons")).await;
    json!([wallet.body["coupons"][0]["state"], wallet.body["coupons"][0]["usable"]])
}

/// A coupon is redeemed for an order, restored when the order is refunded, and redeemed again: gate, events, wallet, settlement and
/// the audit follow.
#[tokio::test]
async fn a_coupon_is_redeemed_restored_and_redeemed_again() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "settle_on": "redeem" })).await;
    let coupon = coupon_of(&world, campaign, "alice").await;
    let first = act(&world, &coupon, "redeem", json!({ "order_ref": "order-1", "amount": 300 })).await;
    assert_eq!(first.status, 200, "{first:?}");
    let told = |field: &str| first.body[field].clone();
    assert_eq!(
        (told("kind"), told("nth"), told("order_ref"), told("amount"), told("currency"), told("user_id")),
        (json!("redeemed"), json!(1), json!("order-1"), json!(300), json!("EUR"), json!("alice"))
    );
    assert_eq!(state_of(&world, &coupon).await, "redeemed");
    // The same order again shows the first answer; by the code too.
    for (path, body) in [
        (path(&coupon, "redeem"), json!({ "order_ref": "order-1", "amount": 300 })),
        (
            "/v1/redemptions".to_owned(),
            json!({ "code": coupon["code"], "order_ref": "order-1", "amount": 300 }),
        ),
    ] {
        let again = world.api().post(&path, &body).await;
        assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")), "{again:?}");
        assert_eq!(again.text, first.text);
    }
    world.balanced().await;
    assert_eq!(in_wallet(&world, "alice").await, json!(["redeemed", false]));
    assert_eq!(settled(&world, &coupon).await, [300]);
    // A winner who asks again is shown the coupon as it is.
    let held = world.claim(campaign, "alice").await;
    assert_eq!((held.problem(), &held.body["coupon"]["state"]), ("already-issued", &json!("redeemed")));

    let restored = act(&world, &coupon, "restore", json!({ "order_ref": "order-1" })).await;
    assert_eq!((restored.status, &restored.body["kind"]), (200, &json!("restored")), "{restored:?}");
    assert_eq!(state_of(&world, &coupon).await, "issued");
    let code = coupon["code"].as_str().unwrap().to_lowercase().replace('-', " ");
    let by_code =
        json!({ "code": code, "order_ref": "order-2", "merchant_id": "merchant-1", "user_id": "alice" });
    let second = world.api().with("request-id", "till-4").post("/v1/redemptions", &by_code).await;
    assert_eq!((second.status, &second.body["amount"]), (200, &json!(500)), "{second:?}");
    let administrator = |kind: &str, order: &str| (kind.to_owned(), "administrator".to_owned(), json!(order));
    assert_eq!(
        changes_of(&world, &coupon).await,
        [
            administrator("redeemed", "order-1"),
            administrator("restored", "order-1"),
            administrator("redeemed", "order-2")
        ]
    );
    assert_eq!(second.body["request_id"], "till-4");
    assert_eq!(told_of(&world, &coupon).await, ["issued", "redeemed", "restored", "redeemed"]);
    world.balanced().await;
    assert_eq!(settled(&world, &coupon).await, [300, -300, 500]);
    assert_eq!(in_wallet(&world, "alice").await, json!(["redeemed", false]));
    let audit = world.coupon(&["audit", "--full", "--json"]).await;
    let sheet: Value = serde_json::from_str(&audit.out).unwrap();
    let balance = &sheet["sheet"]["campaigns"][0];
    assert_eq!(
        (audit.code, &balance["redeemed"], &balance["changes"], &balance["settlement_amount"]),
        (Some(0), &json!(1), &json!(3), &json!(500)),
        "{audit:?}"
    );
    world.close().await;
}

/// By default the seat stays taken and the user gets no second coupon. What counted from the issue on is reversed.
#[tokio::test]
async fn a_cancelled_coupon_is_cancelled_for_ever() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 2 })).await;
    let coupon = coupon_of(&world, campaign, "alice").await;
    let cancelled = act(&world, &coupon, "cancel", Value::Null).await;
    assert_eq!((cancelled.status, &cancelled.body["kind"]), (200, &json!("cancelled")), "{cancelled:?}");
    let again = act(&world, &coupon, "cancel", Value::Null).await;
    assert_eq!((again.status, again.problem()), (409, "cancelled"));
    assert_eq!(again.body["last_change"], cancelled.body);
    for (action, problem) in [("redeem", "cancelled"), ("restore", "not-redeemed")] {
        let refused = act(&world, &coupon, action, json!({ "order_ref": "order-1" })).await;
        assert_eq!((refused.status, refused.problem()), (409, problem), "{refused:?}");
    }
    let claimed = world.claim(campaign, "alice").await;
    assert_eq!(
        (claimed.problem(), &claimed.body["coupon"]["state"]),
        ("already-issued", &json!("cancelled"))
    );
    assert_eq!(world.claim(campaign, "bob").await.status, 201);
    assert_eq!(world.claim(campaign, "carol").await.problem(), "sold-out");
    world.balanced().await;
    assert_eq!(settled(&world, &coupon).await, [500, -500]);
    assert_eq!(in_wallet(&world, "alice").await, json!(["cancelled", false]));
    world.close().await;
}

/// A request with a key has one effect, whatever it does.
#[tokio::test]
async fn a_change_that_is_repeated_with_its_key_gets_the_first_answer() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let coupon = coupon_of(&world, campaign, "alice").await;
    let api = world.api().with("idempotency-key", "key-1");
    let steps = [
        ("redeem", json!({ "order_ref": "order-1" }), json!({ "order_ref": "order-2" })),
        ("restore", json!({ "order_ref": "order-1" }), json!({ "order_ref": "order-2" })),
        ("cancel", json!({}), Value::Null),
    ];
    for (action, body, other) in steps {
        let path = path(&coupon, action);
        let answers = join_all((0..8).map(|_| api.post(&path, &body))).await;
        let first = answers.iter().filter(|answer| answer.header("idempotency-replayed").is_none()).count();
        assert!(
            answers.iter().all(|answer| answer.status == 200 && answer.text == answers[0].text),
            "{answers:?}"
        );
        assert_eq!(first, 1, "{action}");
        if !other.is_null() {
            let reused = api.post(&path, &other).await;
            assert_eq!((reused.status, reused.problem()), (422, "idempotency-key-reused"), "{reused:?}");
        }
    }
    assert_eq!(changes_of(&world, &coupon).await.len(), 3);
    world.balanced().await;
    world.close().await;
}
