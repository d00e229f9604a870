//! Campaigns: what is shown of them, and their states.

use std::collections::BTreeSet;

use coupon_dispatcher::ids::CampaignId;
use hyper::Method;
use serde_json::{Value, json};

use crate::support::{SOON, World, draft, in_seconds, wait_until};

#[tokio::test]
async fn a_campaign_is_created_opened_and_closed() {
    let world = World::start().await;
    let asked = draft(json!({ "quantity": 7, "per_user_limit": 2 }));
    let created = world.api().post("/v1/campaigns", &asked).await;
    assert_eq!(created.status, 201, "{created:?}");
    let path = format!("/v1/campaigns/{}", created.body["id"].as_str().unwrap());
    assert_eq!(created.header("location"), Some(path.as_str()));
    for field in
        ["name", "merchant_id", "face_value", "currency", "quantity", "per_user_limit", "coupon_valid_for"]
    {
        assert_eq!(created.body[field], asked[field], "{field}");
    }
    let told = async |word: &str| {
        let changed = world.api().post(&format!("{path}/{word}"), &Value::Null).await;
        let shown = world.api().get(&path).await;
        if changed.status == 200 {
            assert_eq!(changed.body, shown.body);
        }
        (changed.status, shown.body["state"].clone(), shown.body["version"].clone())
    };
    assert_eq!((&created.body["state"], &created.body["version"]), (&json!("draft"), &json!(1)));
    assert_eq!(told("open").await, (200, json!("open"), json!(2)));
    assert_eq!(told("open").await, (200, json!("open"), json!(2)));
    assert_eq!(told("close").await, (200, json!("closed"), json!(3)));
    assert_eq!(told("close").await, (200, json!("closed"), json!(3)));
    assert_eq!(told("open").await, (409, json!("closed"), json!(3)));
    world.close().await;
}

/// As JSON Schema has it, and as some programs write all their numbers.
#[tokio::test]
async fn an_integer_may_have_a_point_or_an_exponent() {
    let world = World::start().await;
    let create = async |quantity: &str| {
        let body = draft(json!({ "quantity": 7 }))
            .to_string()
            .replace("\"quantity\":7", &format!("\"quantity\":{quantity}"));
        let answer = world.api().send(Method::POST, "/v1/campaigns", body).await;
        (answer.status, answer.body)
    };
    for (quantity, read) in [("7.0", 7), ("7e2", 700), ("70E-1", 7), ("0.07e+2", 7), ("7000", 7_000)] {
        let (status, body) = create(quantity).await;
        assert_eq!((status, &body["quantity"]), (201, &json!(read)), "{quantity}: {body}");
    }
    let [integer, limits] = ["must be an integer", "must be 1 to 10000000"];
    for (quantity, reason) in [
        ("7.5", integer),
        ("7e-1", integer),
        ("-7.0", limits),
        ("0.0", limits),
        ("1e7000", limits),
        ("-1e7000", limits),
        ("9007199254740993.5", integer),
        ("99999999999999999999", limits),
    ] {
        let (status, body) = create(quantity).await;
        assert_eq!(status, 422, "{quantity}: {body}");
        assert_eq!(body["errors"], json!([{ "field": "quantity", "reason": reason }]), "{quantity}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_campaign_whose_window_is_over_cannot_be_opened() {
    let world = World::start().await;
    let campaign =
        world.create_campaign(json!({ "opens_at": in_seconds(-20), "closes_at": in_seconds(2) })).await;
    let over = async || {
        let over = "SELECT closes_at <= now() FROM campaigns WHERE id = $1";
        sqlx::query_scalar::<_, bool>(over).bind(campaign).fetch_one(&world.pool).await.unwrap()
    };
    wait_until("its window is over", SOON, over).await;
    let answer = world.api().post(&format!("/v1/campaigns/{campaign}/open"), &Value::Null).await;
    assert_eq!((answer.status, answer.problem()), (409, "not-allowed-in-state"), "{answer:?}");
    let detail = answer.body["detail"].as_str().unwrap();
    let shown = world.api().get(&format!("/v1/campaigns/{campaign}")).await.body;
    let closes_at = shown["closes_at"].as_str().unwrap();
    assert_eq!(detail, format!("the campaign cannot be opened: its closes_at, {closes_at}, has passed"));
    world.close().await;
}

#[tokio::test]
async fn a_campaign_may_last_as_long_as_can_be_written() {
    let world = World::start().await;
    let campaign = world
        .open_campaign(json!({
            "opens_at": "1970-01-01T00:00:00Z", "closes_at": "8999-12-31T23:59:59Z",
            "coupon_expires_at": "8999-12-31T23:59:59Z", "coupon_valid_for": null,
        }))
        .await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.close().await;
}

#[tokio::test]
async fn campaigns_are_listed_in_pages_from_the_newest_on() {
    let world = World::start().await;
    let mut ids = BTreeSet::new();
    for _ in 0..5 {
        ids.insert(world.create_campaign(json!({})).await.to_string());
    }
    let mut seen = Vec::new();
    let mut path = "/v1/campaigns?limit=2".to_owned();
    let mut pages = 0;
    loop {
        let page = world.api().get(&path).await.body;
        seen.extend(
            page["campaigns"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()),
        );
        pages += 1;
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/campaigns?limit=2&cursor={next}");
    }
    assert_eq!(pages, 3);
    assert_eq!(seen, ids.into_iter().rev().collect::<Vec<_>>());
    world.close().await;
}

#[tokio::test]
async fn campaigns_are_listed_by_their_state() {
    let world = World::start().await;
    let draft = world.create_campaign(json!({})).await;
    let open = world.open_campaign(json!({})).await;
    let closed = world.open_campaign(json!({})).await;
    let paused = world.open_campaign(json!({})).await;
    for (campaign, change) in [(closed, "close"), (paused, "pause")] {
        world.api().post(&format!("/v1/campaigns/{campaign}/{change}"), &Value::Null).await;
    }
    for (states, expected) in [
        ("draft", vec![draft]),
        ("open", vec![open]),
        ("closed", vec![closed]),
        ("paused", vec![paused]),
        ("closed,draft", vec![closed, draft]),
        ("open,open", vec![open]),
    ] {
        let page = world.api().get(&format!("/v1/campaigns?state={states}&limit=2")).await.body;
        let ids: Vec<CampaignId> = page["campaigns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|campaign| serde_json::from_value(campaign["id"].clone()).unwrap())
            .collect();
        assert_eq!(ids, expected, "{states}");
    }
    for (query, field) in
        [("state=over", "state"), ("state=", "state"), ("state=open,", "state"), ("status=open", "status")]
    {
        let refused = world.api().get(&format!("/v1/campaigns?{query}")).await;
        assert_eq!((refused.status, &refused.body["errors"][0]["field"]), (422, &json!(field)), "{query}");
    }
    world.close().await;
}

#[tokio::test]
async fn counts_are_live() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 3 })).await;
    for user in ["alice", "bob", "alice"] {
        world.claim(campaign, user).await;
    }
    let shown = world.api().get(&format!("/v1/campaigns/{campaign}")).await.body;
    assert_eq!((&shown["issued"], &shown["left"]), (&json!(2), &json!(1)));
    assert_eq!(world.api().get("/v1/campaigns").await.body["campaigns"][0], shown);
    world.close().await;
}

#[tokio::test]
async fn a_campaign_opens_and_closes_by_itself() {
    let world = World::start().await;
    let (opens_at, closes_at) = (in_seconds(2), in_seconds(4));
    let campaign =
        world.create_campaign(json!({ "quantity": 1, "opens_at": opens_at, "closes_at": closes_at })).await;
    let path = format!("/v1/campaigns/{campaign}");
    let opened = world.api().post(&format!("{path}/open"), &Value::Null).await;
    assert_eq!((opened.status, &opened.body["state"]), (200, &json!("scheduled")));
    let early = world.claim(campaign, "alice").await;
    assert_eq!((early.status, early.problem()), (403, "not-open"));
    assert_eq!(early.body["opens_at"], opened.body["opens_at"]);

    wait_until("alice has a coupon", SOON, async || world.claim(campaign, "alice").await.status == 201).await;
    wait_until("it is closed", SOON, async || world.claim(campaign, "bob").await.problem() == "closed").await;
    let closed = async || world.api().get(&path).await.body["state"] == "closed";
    wait_until("the state is closed", SOON, closed).await;
    assert_eq!(world.claim(campaign, "alice").await.problem(), "already-issued");
    world.close().await;
}

#[tokio::test]
async fn a_draft_takes_no_claims() {
    let world = World::start().await;
    let campaign = world.create_campaign(json!({})).await;
    let later = world.create_campaign(json!({ "opens_at": in_seconds(600) })).await;
    // The first claim and later ones, which the gate refuses.
    for _ in 0..3 {
        let refused = world.claim(campaign, "alice").await;
        assert_eq!((refused.status, refused.problem()), (403, "not-open"), "{refused:?}");
        assert_eq!(refused.body.get("opens_at"), None, "it has passed, and opens nothing");
        let refused = world.claim(later, "alice").await;
        assert_eq!((refused.status, refused.problem()), (403, "not-open"), "{refused:?}");
        assert!(refused.body["opens_at"].is_string(), "{refused:?}");
    }
    let loaded = async || {
        let state = redis::cmd("HGET").arg(World::gate(campaign, "")).arg("state").to_owned();
        let state: Option<String> = state.query_async(&mut world.redis().await).await.unwrap();
        state.as_deref() == Some("draft")
    };
    wait_until("the gate is loaded", SOON, loaded).await;
    assert_eq!(world.claim(campaign, "alice").await.problem(), "not-open");
    assert_eq!(world.coupons(campaign).await, 0);
    let opened = world.api().post(&format!("/v1/campaigns/{campaign}/open"), &Value::Null).await;
    assert_eq!(opened.status, 200);
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.close().await;
}

/// The gate's field and the time at which its keys expire, in ms since 1970.
async fn gate_field(world: &World, campaign: CampaignId, field: &str) -> (String, i64) {
    let (gate, holders) = (World::gate(campaign, ""), World::gate(campaign, ":holders"));
    let mut redis = world.redis().await;
    let (value, expires_at, of_holders): (String, i64, i64) = redis::pipe()
        .hget(&gate, field)
        .cmd("PEXPIRETIME")
        .arg(&gate)
        .cmd("PEXPIRETIME")
        .arg(&holders)
        .query_async(&mut redis)
        .await
        .unwrap();
    assert_eq!(expires_at, of_holders, "the gate's keys expire together");
    (value, expires_at)
}

/// The row is changed, and the process that changed it dies before it notifies the gate.
#[tokio::test]
async fn a_raised_quantity_and_a_later_end_reach_a_gate_that_was_not_notified() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 1 })).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    assert_eq!(world.claim(campaign, "bob").await.problem(), "sold-out");
    let (_, before) = gate_field(&world, campaign, "version").await;
    let version: i32 = sqlx::query_scalar(
        "UPDATE campaigns SET quantity = 3, per_user_limit = 2, closes_at = closes_at + interval '1 hour', \
         version = version + 1 WHERE id = $1 RETURNING version",
    )
    .bind(campaign)
    .fetch_one(&world.pool)
    .await
    .unwrap();
    wait_until("the gate has the new version", SOON, async || {
        gate_field(&world, campaign, "version").await.0 == version.to_string()
    })
    .await;
    for (field, value) in [("quantity", "3"), ("limit", "2"), ("state", "open")] {
        assert_eq!(gate_field(&world, campaign, field).await.0, value, "{field}");
    }
    let (closes_at, after) = gate_field(&world, campaign, "closes_at").await;
    assert_eq!(after, before + 3_600_000, "the keys outlive the later end");
    assert_eq!(closes_at.parse::<i64>().unwrap() + 86_400_000, after, "by a day");
    for user in ["bob", "alice"] {
        assert_eq!(world.claim(campaign, user).await.status, 201, "{user}");
    }
    assert_eq!(world.claim(campaign, "carol").await.problem(), "sold-out");
    world.close().await;
}
