//! A cancelled coupon puts its seat back on sale, where its campaign wants that.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use outbox_relay::Shard;
use serde_json::{Value, json};

use super::{act, coupon_of, settled, state_of};
use crate::support::{SOON, World, wait_until};

/// Every process that has refused users from memory sells the seat.
#[tokio::test]
async fn a_seat_that_is_put_back_is_sold_once_by_whichever_process_is_asked() {
    let mut world = World::with_processes(&["", "api", "api"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 4, "restock_on_cancel": true })).await;
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let mut coupons = Vec::new();
    for user in ["ann", "ben", "cleo", "dan"] {
        coupons.push(coupon_of(&world, campaign, user).await);
    }
    let claim = async |process: usize, user: String| {
        world.processes[process].http().post(&path, &json!({ "user_id": user })).await
    };
    for process in 0..3 {
        let remembers = async || {
            let refused = claim(process, "nobody".to_owned()).await;
            assert_eq!(refused.problem(), "sold-out");
            world
                .measured(process, "claims_answered_from_memory_total")
                .await
                .is_some_and(|count| count > 0.0)
        };
        wait_until("the process answers from memory", SOON, remembers).await;
    }
    for (process, coupon) in coupons.iter().enumerate().take(3) {
        let cancelled = act(&world, coupon, "cancel", Value::Null).await;
        assert_eq!(cancelled.status, 200, "{cancelled:?}");
        let user = format!("late-{process}");
        let wins = async || claim(process, user.clone()).await.status == 201;
        wait_until("the seat is sold again", SOON, wins).await;
        let shown = world.api().get(&format!("/v1/campaigns/{campaign}")).await.body;
        let counts = json!([shown["issued"], shown["returned"], shown["left"], shown["issued_value"]]);
        assert_eq!(counts, json!([5 + process, 1 + process, 0, 2_000]));
        for other in 0..3 {
            let refused = claim(other, format!("too-late-{process}")).await;
            assert_eq!(refused.problem(), "sold-out", "it is sold once: {refused:?}");
        }
    }
    let held = world.claim(campaign, "ann").await;
    assert_eq!((held.problem(), &held.body["coupon"]["state"]), ("already-issued", &json!("cancelled")));
    // Whatever becomes of the gate.
    world.servers.redis.kill().await;
    std::fs::remove_dir_all(world.servers.redis.dir().join("appendonlydir")).unwrap();
    world.servers.redis.start().await.unwrap();
    wait_until("the gate is loaded", SOON, async || {
        world.claim(campaign, "eve").await.problem() == "sold-out"
    })
    .await;
    assert_eq!(act(&world, &coupons[3], "cancel", Value::Null).await.status, 200);
    wait_until("the seat is sold again", SOON, async || world.claim(campaign, "eve").await.status == 201)
        .await;
    assert_eq!(world.claim(campaign, "fay").await.problem(), "sold-out");
    world.balanced().await;
    assert_eq!(settled(&world, &coupons[0]).await, [500, -500]);
    assert_eq!(world.coupon(&["audit", "--full"]).await.code, Some(0));
    let sold_out = world.outbox(Shard(0)).await;
    assert_eq!(sold_out.iter().filter(|event| event.kind == "campaign-sold-out").count(), 5);
    world.close().await;
}

/// Users claim and cancel at the same time, more of them than there are coupons: in the end as many coupons live as there can be,
/// and no return number is missing or there twice.
#[tokio::test]
async fn a_rush_in_which_coupons_are_cancelled_sells_each_seat_again() {
    let world = World::with_processes(&["", "api"]).await;
    let fields = json!({ "quantity": 200, "budget": 90_000, "restock_on_cancel": true });
    let campaign = world.open_campaign(fields).await; // pays for 180
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let users = (0..500).map(async |number: usize| {
        let api = world.processes[number % 2].http();
        let body = json!({ "user_id": format!("user-{number}") });
        let claimed = api.post(&path, &body).await;
        assert!([201, 410].contains(&claimed.status), "{claimed:?}");
        if claimed.status == 201 && number.is_multiple_of(3) {
            let cancel = format!("/v1/coupons/{}/cancel", claimed.body["id"].as_str().unwrap());
            let twice = join_all((0..2).map(|_| api.post(&cancel, &Value::Null))).await;
            let done: HashSet<u16> = twice.iter().map(|answer| answer.status).collect();
            assert_eq!(done, HashSet::from([200, 409]), "{twice:?}");
            return 1;
        }
        0
    });
    let cancelled: i64 = join_all(users).await.into_iter().sum();
    let mut next = 0;
    let all_are_sold = async || {
        next += 1;
        world.claim(campaign, &format!("last-{next}")).await;
        world.api().get(&format!("/v1/campaigns/{campaign}")).await.body["left"] == 0
    };
    wait_until("all seats are sold again", Duration::from_secs(60), all_are_sold).await;
    let shown = world.api().get(&format!("/v1/campaigns/{campaign}")).await.body;
    assert_eq!((&shown["returned"], &shown["issued"]), (&json!(cancelled), &json!(180 + cancelled)));
    world.balanced().await;
    assert_eq!(world.coupon(&["audit", "--full"]).await.code, Some(0));
    world.close().await;
}

/// One coupon that is cancelled and sold again, over and over: no audit takes that for too many coupons, and no sweeper for a wrong
/// gate.
#[tokio::test]
async fn audits_and_sweepers_see_nothing_wrong_while_seats_are_put_back() {
    let world = World::with_processes(&["", "api"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 1, "restock_on_cancel": true })).await;
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let processes = [world.processes[0].http(), world.processes[1].http()];
    let churning = tokio::spawn(async move {
        for number in 0.. {
            let api = &processes[number % 2];
            let claimed = api.post(&path, &json!({ "user_id": format!("user-{number}") })).await;
            if claimed.status == 201 {
                let cancel = format!("/v1/coupons/{}/cancel", claimed.body["id"].as_str().unwrap());
                assert_eq!(api.post(&cancel, &Value::Null).await.status, 200);
            }
        }
    });
    world.issued(campaign, 10).await;
    for _ in 0..6 {
        let audit = world.coupon(&["audit", "--full"]).await;
        assert_eq!(audit.code, Some(0), "{audit:?}");
    }
    assert!(!churning.is_finished(), "somebody was not answered");
    churning.abort();
    for process in 0..2 {
        let repaired = world.measured(process, "gate_repairs_total{step=\"set\"}").await;
        assert!(repaired.is_none_or(|count| count < 0.5), "{repaired:?}");
    }
    world.balanced().await;
    world.close().await;
}

/// What is not cancelled, or in a campaign that does not want it, puts no seat back.
#[tokio::test]
async fn nothing_else_puts_a_seat_back() {
    let world = World::start().await;
    let fields = json!({ "quantity": 2, "restock_on_cancel": true, "coupon_valid_for": "PT2S" });
    let (restocks, keeps) =
        (world.open_campaign(fields).await, world.open_campaign(json!({ "quantity": 1 })).await);
    let (used, ended) = (coupon_of(&world, restocks, "ann").await, coupon_of(&world, restocks, "ben").await);
    let kept = coupon_of(&world, keeps, "ann").await;
    let order = json!({ "order_ref": "order-1" });
    assert_eq!(act(&world, &used, "redeem", order).await.status, 200);
    assert_eq!(act(&world, &kept, "cancel", Value::Null).await.status, 200);
    wait_until("the other expires", SOON, async || state_of(&world, &ended).await == "expired").await;
    assert_eq!(act(&world, &ended, "cancel", Value::Null).await.problem(), "expired");
    for campaign in [restocks, keeps] {
        assert_eq!(world.claim(campaign, "eve").await.problem(), "sold-out");
        assert_eq!(world.api().get(&format!("/v1/campaigns/{campaign}")).await.body["returned"], 0);
    }
    world.balanced().await;
    world.close().await;
}
