//! What a coupon does not allow, and what is told of it.

use serde_json::{Value, json};
use ulid::Ulid;

use super::{act, changes_of, coupon_of, path, redeem, state_of};
use crate::support::{Answer, SOON, World, wait_until};

#[track_caller]
fn refused(answer: &Answer, status: u16, problem: &str, reasons: &Value) {
    assert_eq!((answer.status, answer.problem()), (status, problem), "{answer:?}");
    assert_eq!(&answer.body["reasons"], reasons, "{answer:?}");
}

#[tokio::test]
async fn what_the_request_supposes_must_be_so() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let coupon = coupon_of(&world, campaign, "alice").await;
    let asked = async |fields: Value| {
        let mut body = json!({ "order_ref": "order-1" });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        (
            act(&world, &coupon, "redeem?dry_run=true", body.clone()).await,
            act(&world, &coupon, "redeem", body).await,
        )
    };
    for (fields, problem, reasons) in [
        (json!({ "user_id": "bob" }), "coupon-mismatch", json!(["not-the-holder"])),
        (json!({ "merchant_id": "merchant-2" }), "coupon-mismatch", json!(["another-merchant"])),
        (json!({ "currency": "USD" }), "coupon-mismatch", json!(["another-currency"])),
        (json!({ "amount": 501 }), "amount-too-high", json!(["amount-too-high"])),
        (
            json!({ "user_id": "bob", "merchant_id": "x", "currency": "JPY", "amount": 1_000_000_000_000_i64 }),
            "coupon-mismatch",
            json!(["not-the-holder", "another-merchant", "another-currency", "amount-too-high"]),
        ),
    ] {
        let (trial, answer) = asked(fields).await;
        refused(&answer, 409, problem, &reasons);
        let expected = json!({ "redeemable": false, "reasons": reasons, "last_change": null });
        assert_eq!((trial.status, trial.body), (200, expected));
    }
    let trial = act(&world, &coupon, "redeem?dry_run=true", json!({ "order_ref": "order-1" })).await;
    assert_eq!(trial.body, json!({ "redeemable": true, "reasons": [], "last_change": null }), "{trial:?}");
    assert_eq!(changes_of(&world, &coupon).await, []);
    let right = json!({ "user_id": "alice", "merchant_id": "merchant-1", "currency": "EUR", "amount": 500 });
    let (_, redeemed) = asked(right).await;
    assert_eq!(redeemed.status, 200, "{redeemed:?}");
    // The order that has redeemed it would get its first answer, unless it supposes what is not so.
    let (trial, again) = asked(json!({})).await;
    let expected = json!({ "redeemable": true, "reasons": [], "last_change": redeemed.body });
    assert_eq!((trial.body, again.text), (expected, redeemed.text.clone()));
    let (_, otherwise) = asked(json!({ "user_id": "bob" })).await;
    refused(
        &otherwise,
        409,
        "coupon-mismatch",
        &json!(["not-the-holder", "order-ref-used", "already-redeemed"]),
    );
    let by_code = json!({ "code": coupon["code"], "order_ref": "order-2", "user_id": "bob" });
    let trial = world.api().post("/v1/redemptions?dry_run=true", &by_code).await;
    let expected = json!({
        "redeemable": false, "reasons": ["not-the-holder", "already-redeemed"], "last_change": redeemed.body,
    });
    assert_eq!(trial.body, expected);
    world.balanced().await;
    world.close().await;
}

/// To a token that is bound to a merchant, no coupon of another merchant exists.
#[tokio::test]
async fn a_token_of_a_merchant_changes_coupons_of_that_merchant_alone() {
    let world = World::start().await;
    let token = world.token(&["--scope", "redeem", "--merchant", "merchant-1"]).await;
    let api = world.api().with_token(Some(&token));
    let (own, foreign) = (world.open_campaign(json!({})).await, json!({ "merchant_id": "merchant-2" }));
    let foreign = world.open_campaign(foreign).await;
    let (own, foreign) = (coupon_of(&world, own, "alice").await, coupon_of(&world, foreign, "bob").await);
    let order = json!({ "order_ref": "order-1" });
    let nothing = json!({ "id": Ulid::generate().to_string() });
    for (action, body) in
        [("redeem", &order), ("redeem?dry_run=true", &order), ("restore", &order), ("cancel", &Value::Null)]
    {
        let [hidden, unknown] = [&foreign, &nothing].map(|coupon| path(coupon, action));
        let (hidden, unknown) = (api.post(&hidden, body).await, api.post(&unknown, body).await);
        assert_eq!(
            (hidden.status, &hidden.body["detail"]),
            (404, &unknown.body["detail"]),
            "{action}: {hidden:?}"
        );
    }
    assert_eq!(api.get(&path(&foreign, "changes")).await.status, 404);
    let by_code = json!({ "code": foreign["code"], "order_ref": "order-1" });
    assert_eq!(api.post("/v1/redemptions", &by_code).await.status, 404);
    let named = json!({ "order_ref": "order-1", "merchant_id": "merchant-2" });
    assert_eq!(api.post(&path(&own, "redeem"), &named).await.problem(), "forbidden");
    assert_eq!((changes_of(&world, &own).await, changes_of(&world, &foreign).await), (vec![], vec![]));
    for (action, body) in [("redeem", &order), ("restore", &order), ("cancel", &Value::Null)] {
        assert_eq!(api.post(&path(&own, action), body).await.status, 200, "{action}");
    }
    assert_eq!(api.get(&path(&own, "changes")).await.body["changes"].as_array().unwrap().len(), 3);
    world.balanced().await;
    world.close().await;
}

#[tokio::test]
async fn a_change_that_the_state_does_not_allow_changes_nothing() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let coupon = coupon_of(&world, campaign, "alice").await;
    let order = |order: &str| json!({ "order_ref": order });
    refused(
        &act(&world, &coupon, "restore", order("a")).await,
        409,
        "not-redeemed",
        &json!(["not-redeemed"]),
    );
    assert_eq!(redeem(&world, &coupon, "a").await.status, 200);
    refused(&redeem(&world, &coupon, "b").await, 409, "already-redeemed", &json!(["already-redeemed"]));
    refused(
        &act(&world, &coupon, "cancel", Value::Null).await,
        409,
        "already-redeemed",
        &json!(["already-redeemed"]),
    );
    refused(
        &act(&world, &coupon, "restore", order("b")).await,
        409,
        "coupon-mismatch",
        &json!(["another-order"]),
    );
    assert_eq!(changes_of(&world, &coupon).await.len(), 1);
    let other = coupon_of(&world, campaign, "bob").await;
    refused(&redeem(&world, &other, "a").await, 409, "order-ref-used", &json!(["order-ref-used"]));
    // The same order with another amount is another redemption.
    let more = act(&world, &coupon, "redeem", json!({ "order_ref": "a", "amount": 1 })).await;
    refused(&more, 409, "order-ref-used", &json!(["order-ref-used", "already-redeemed"]));
    assert_eq!(state_of(&world, &other).await, "issued");

    let nothing = json!({ "id": Ulid::generate().to_string() });
    for (action, body) in [("redeem", order("c")), ("restore", order("c")), ("cancel", Value::Null)] {
        assert_eq!(act(&world, &nothing, action, body).await.problem(), "not-found");
    }
    assert_eq!(world.api().get(&path(&nothing, "changes")).await.problem(), "not-found");
    let unknown = json!({ "code": "0000-0000-0000-0000-0000", "order_ref": "c" });
    assert_eq!(world.api().post("/v1/redemptions", &unknown).await.problem(), "not-found");
    world.balanced().await;
    world.close().await;
}

/// A coupon cannot be used from the very moment on that it shows as its end, whether or not the event has come.
#[tokio::test]
async fn nothing_is_redeemed_from_the_end_on() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "coupon_valid_for": "PT2S" })).await;
    let mut coupons = Vec::new();
    for number in 0..20 {
        coupons.push(coupon_of(&world, campaign, &format!("user-{number}")).await);
    }
    let mut redeemed = 0;
    for (n, coupon) in coupons.iter().enumerate() {
        if n % 2 == 0 {
            let past = "SELECT now() >= $1::timestamptz - interval '3 milliseconds'";
            let is_near = async || {
                let query = sqlx::query_scalar::<_, bool>(past).bind(coupon["expires_at"].as_str().unwrap());
                query.fetch_one(&world.pool).await.unwrap()
            };
            wait_until("the end is near", SOON, is_near).await;
        }
        let answer = redeem(&world, coupon, &format!("order-{n}")).await;
        match answer.status {
            200 => redeemed += 1,
            410 => assert_eq!(answer.body["reasons"], json!(["expired"]), "{answer:?}"),
            _ => panic!("{answer:?}"),
        }
    }
    assert!(redeemed < coupons.len(), "none has expired");
    let late = "SELECT count(*) FROM coupon_changes JOIN coupons ON id = coupon_id \
                WHERE kind = 'redeemed' AND at >= expires_at OR kind = 'expired' AND at < expires_at";
    let late: i64 = sqlx::query_scalar(late).fetch_one(&world.pool).await.unwrap();
    assert_eq!(late, 0);
    world.balanced().await;
    world.close().await;
}
