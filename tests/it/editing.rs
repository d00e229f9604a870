//! To edit a campaign: fields by state, versions, and what an edit does to seats and events.

use std::collections::BTreeMap;

use coupon_dispatcher::campaign::edit::EDITABLE;
use coupon_dispatcher::ids::CampaignId;
use hyper::Method;
use outbox_relay::Shard;
use serde_json::{Value, json};

use crate::support::{Answer, Http, SOON, World, in_seconds, wait_until};

pub(crate) async fn edit(api: &Http, campaign: CampaignId, fields: Value) -> Answer {
    api.send(Method::PATCH, &format!("/v1/campaigns/{campaign}"), fields.to_string()).await
}

pub(crate) async fn change(world: &World, campaign: CampaignId, what: &str) -> Answer {
    let changed = world.api().post(&format!("/v1/campaigns/{campaign}/{what}"), &Value::Null).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    changed
}

pub(crate) async fn shown(world: &World, campaign: CampaignId) -> Value {
    world.api().get(&format!("/v1/campaigns/{campaign}")).await.body
}

/// A campaign in a state.
async fn campaign_in(world: &World, state: &str) -> CampaignId {
    let opens_at = if state == "scheduled" { in_seconds(3_600) } else { in_seconds(-60) };
    let campaign = world.create_campaign(json!({ "opens_at": opens_at, "quantity": 10_000 })).await;
    let changes: &[&str] = match state {
        "draft" => &[],
        "scheduled" | "open" => &["open"],
        "paused" => &["open", "pause"],
        "closed" => &["open", "close"],
        other => panic!("{other}"),
    };
    for what in changes {
        change(world, campaign, what).await;
    }
    assert_eq!(shown(world, campaign).await["state"], state);
    campaign
}

/// Each field in each state is as the table has it: changed, or refused by its name, and nothing else with it.
#[tokio::test]
async fn every_field_is_changed_in_the_states_of_the_table() {
    let world = World::start().await;
    let values = BTreeMap::from([
        ("name", json!("Monday")),
        ("merchant_id", json!("merchant-2")),
        ("face_value", json!(7)),
        ("currency", json!("USD")),
        ("quantity", json!(10_001)),
        ("budget", json!(1_000_000_000)),
        ("per_user_limit", json!(2)),
        ("opens_at", json!("2026-01-01T00:00:00Z")),
        ("closes_at", json!("2098-01-01T00:00:00Z")),
        ("coupon_expires_at", json!("2100-01-01T00:00:00Z")),
        ("coupon_valid_for", json!("P3D")),
        ("settle_on", json!("redeem")),
        ("require_idempotency_key", json!(true)),
        ("restock_on_cancel", json!(true)),
    ]);
    for state in ["draft", "scheduled", "open", "paused", "closed"] {
        for (field, until) in EDITABLE {
            let campaign = campaign_in(&world, state).await;
            let before = shown(&world, campaign).await;
            let answer = edit(&world.api(), campaign, json!({ field: values[field] })).await;
            let after = shown(&world, campaign).await;
            let is_changed = until.includes(serde_json::from_value(json!(state)).unwrap());
            if is_changed {
                assert_eq!((answer.status, &answer.body), (200, &after), "{state} {field}: {answer:?}");
                assert_eq!(after[field], values[field], "{state} {field}");
                assert_eq!(after["version"], before["version"].as_i64().unwrap() + 1, "{state} {field}");
                let again = edit(&world.api(), campaign, after_without_answers(&after)).await;
                assert_eq!((again.status, &again.body), (200, &after), "an edit that changes nothing");
            } else {
                assert_eq!(
                    (answer.status, answer.problem()),
                    (409, "not-editable-in-state"),
                    "{state} {field}"
                );
                let named: Vec<&str> = answer.body["errors"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|error| error["field"].as_str().unwrap())
                    .collect();
                assert!(named.contains(&field), "{state} {field}: {named:?}");
                assert_eq!(after, before, "{state} {field}");
            }
        }
    }
    world.balanced().await;
    world.close().await;
}

/// The fields of a campaign that an edit may have.
fn after_without_answers(campaign: &Value) -> Value {
    let mut fields = campaign.as_object().unwrap().clone();
    fields.retain(|name, _| EDITABLE.iter().any(|(field, _)| field == name));
    fields.into()
}

#[tokio::test]
async fn an_edit_of_another_version_is_refused() {
    let world = World::start().await;
    let campaign = campaign_in(&world, "open").await;
    let tagged = async |tag: &'static str, quantity: i32| {
        edit(&world.api().with("if-match", tag), campaign, json!({ "quantity": quantity })).await
    };
    for (tag, quantity, version) in [("\"2\"", 11, 3), ("*", 12, 4), ("\"7\", \"4\"", 13, 5)] {
        let edited = tagged(tag, quantity).await;
        assert_eq!((edited.status, &edited.body["version"]), (200, &json!(version)), "{tag}: {edited:?}");
    }
    for tag in ["\"4\"", "\"0\"", "\"x\"", "\"2\",\"3\"", "\"05\"", "\"+5\""] {
        let stale = tagged(tag, 99).await;
        assert_eq!((stale.status, stale.problem()), (412, "version-mismatch"), "{tag}: {stale:?}");
        assert_eq!(stale.body["detail"], "The campaign has version 5 now.");
    }
    for tag in ["5", "", "W/\"5\"", "\"5", "*, *", "\"5\" \"5\""] {
        let wrong = tagged(tag, 99).await;
        assert_eq!((wrong.status, &wrong.body["errors"][0]["field"]), (422, &json!("If-Match")), "{tag}");
    }
    assert_eq!(shown(&world, campaign).await["quantity"], 13);
    // Two operators have read the same version: one of them is told.
    let both = tokio::join!(tagged("\"5\"", 20), tagged("\"5\"", 30));
    let mut statuses = [both.0.status, both.1.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
    world.close().await;
}

#[tokio::test]
async fn a_campaign_that_would_not_be_one_stays_as_it_is() {
    let world = World::start().await;
    let campaign = campaign_in(&world, "open").await;
    for user in ["alice", "bob"] {
        assert_eq!(world.claim(campaign, user).await.status, 201);
    }
    let before = shown(&world, campaign).await;
    for (fields, named) in [
        (json!({ "quantity": 1 }), vec!["quantity"]),
        (json!({ "quantity": 0, "name": "" }), vec!["name", "quantity"]),
        (json!({ "quantity": 10_000_001 }), vec!["quantity"]),
        (json!({ "closes_at": "2026-01-01T00:00:00Z" }), vec!["closes_at"]),
        (json!({ "closes_at": "2026-11-20T18:00:00Z", "quantity": -1 }), vec!["quantity", "closes_at"]),
    ] {
        let refused = edit(&world.api(), campaign, fields.clone()).await;
        assert_eq!((refused.status, refused.problem()), (422, "invalid"), "{fields}: {refused:?}");
        let errors = refused.body["errors"].as_array().unwrap();
        let fields_named: Vec<&str> = errors.iter().map(|error| error["field"].as_str().unwrap()).collect();
        assert_eq!(fields_named, named, "{fields}");
    }
    for (body, named) in
        [(r#"{"quantity":"9"}"#, "quantity"), (r#"{"state":"closed"}"#, "state"), ("[]", "body")]
    {
        let path = format!("/v1/campaigns/{campaign}");
        let refused = world.api().send(Method::PATCH, &path, body).await;
        assert_eq!((refused.status, refused.problem()), (422, "malformed-body"), "{body}");
        assert_eq!(refused.body["errors"][0]["field"], named, "{body}");
    }
    assert_eq!(shown(&world, campaign).await, before);
    let unknown = CampaignId(ulid::Ulid::generate());
    assert_eq!(edit(&world.api(), unknown, json!({ "quantity": 9 })).await.problem(), "not-found");
    world.close().await;
}

/// Up and down, at the process that is asked and at another.
#[tokio::test]
async fn another_quantity_counts_at_once() {
    let world = World::with_processes(&["", "api"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 1 })).await;
    let elsewhere = async |user: &str| {
        let path = format!("/v1/campaigns/{campaign}/coupons");
        world.processes[1].http().post(&path, &json!({ "user_id": user })).await
    };
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    assert_eq!(elsewhere("bob").await.problem(), "sold-out");
    assert_eq!(edit(&world.api(), campaign, json!({ "quantity": 3 })).await.body["left"], 2);
    assert_eq!(elsewhere("bob").await.status, 201);
    assert_eq!(edit(&world.api(), campaign, json!({ "quantity": 2 })).await.body["left"], 0);
    assert_eq!(
        (world.claim(campaign, "carol").await.problem(), elsewhere("carol").await.problem()),
        ("sold-out", "sold-out")
    );
    let kinds: Vec<String> = world.outbox(Shard(0)).await.into_iter().map(|event| event.kind).collect();
    let sold = "campaign-sold-out";
    let expected =
        ["campaign-opened", "issued", sold, "campaign-changed", "issued", "campaign-changed", sold];
    assert_eq!(kinds, expected);
    world.balanced().await;
    world.close().await;
}

/// A budget counts as a quantity does: in Redis, in Postgres, at every process, and when it is changed.
#[tokio::test]
async fn the_smaller_of_quantity_and_budget_is_the_limit() {
    let world = World::with_processes(&["", "api"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 10, "face_value": 500, "budget": 1_499 })).await;
    let before = shown(&world, campaign).await;
    assert_eq!(
        (&before["budget"], &before["left"], &before["issued_value"]),
        (&json!(1_499), &json!(2), &json!(0))
    );
    let elsewhere = async |user: &str| {
        let path = format!("/v1/campaigns/{campaign}/coupons");
        world.processes[1].http().post(&path, &json!({ "user_id": user })).await
    };
    assert_eq!((world.claim(campaign, "alice").await.status, elsewhere("bob").await.status), (201, 201));
    assert_eq!(
        (world.claim(campaign, "carol").await.problem(), elsewhere("carol").await.problem()),
        ("sold-out", "sold-out")
    );
    let sold = async || {
        let events = world.outbox(Shard(0)).await;
        events.iter().filter(|event| event.kind == "campaign-sold-out").count()
    };
    assert_eq!(sold().await, 1);
    // Postgres knows it too, whatever Redis says.
    let mut redis = world.redis().await;
    redis::cmd("HSET")
        .arg(World::gate(campaign, ""))
        .arg(&["quantity", "10"])
        .exec_async(&mut redis)
        .await
        .unwrap();
    assert_eq!(world.claim(campaign, "carol").await.problem(), "sold-out");
    world.balanced().await;

    let set = async |fields: Value| edit(&world.api(), campaign, fields).await;
    let refused = set(json!({ "budget": 999, "quantity": 1 })).await;
    let errors = refused.body["errors"].as_array().unwrap();
    let named: Vec<&str> = errors.iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!((refused.status, named), (422, vec!["quantity", "budget"]), "{refused:?}");
    for budget in [499, 0, -1, 1_000_000_000_000_000_001_i64] {
        let refused = set(json!({ "budget": budget })).await;
        assert_eq!(
            (refused.status, &refused.body["errors"][0]["field"]),
            (422, &json!("budget")),
            "{budget}"
        );
    }
    let raised = set(json!({ "budget": 1_500 })).await;
    assert_eq!((&raised.body["left"], &raised.body["issued_value"]), (&json!(1), &json!(1_000)));
    assert_eq!(elsewhere("carol").await.status, 201);
    assert_eq!(world.claim(campaign, "dave").await.problem(), "sold-out");
    assert_eq!(set(json!({ "budget": 1_000_000 })).await.body["left"], 7);
    assert_eq!(world.claim(campaign, "dave").await.status, 201);
    assert_eq!(set(json!({ "budget": 2_000 })).await.body["left"], 0);
    assert_eq!(elsewhere("erin").await.problem(), "sold-out");
    assert_eq!(sold().await, 3, "at the second, the third, and when the budget came down to the fourth");
    world.balanced().await;
    world.close().await;
}

/// In a rush an operator takes seats away as fast as users take them: there are never more coupons than the quantity.
#[tokio::test]
async fn a_quantity_that_sinks_in_a_rush_is_kept() {
    let world = World::with_processes(&["", "api"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 5_000 })).await;
    let rush = tokio::spawn(world.rush(campaign, 5_000).run());
    world.issued(campaign, 50).await;
    let mut quantity = 5_000;
    let mut lowered = 0;
    // Near to the coupons that are issued, and further away for when many are issued meanwhile.
    for margin in [10, 40, 160, 640].into_iter().cycle().take_while(|_| !rush.is_finished()) {
        let issued = shown(&world, campaign).await["issued"].as_i64().unwrap();
        let wanted = (issued + margin).min(quantity - 1);
        let edited = edit(&world.api(), campaign, json!({ "quantity": wanted })).await;
        match edited.status {
            200 => {
                assert!(edited.body["left"].as_i64().unwrap() >= 0, "{edited:?}");
                quantity = wanted;
                lowered += 1;
            }
            _ => assert_eq!((edited.status, edited.problem()), (422, "invalid"), "{edited:?}"),
        }
        if edited.body["left"] == 0 {
            break;
        }
    }
    rush.await.unwrap();
    assert!(lowered > 0);
    let coupons = world.coupons(campaign).await;
    assert!(coupons <= quantity, "{coupons} of {quantity}");
    world.balanced().await;
    world.close().await;
}

/// A claim that has come before an edit, and waits as the edit does, counts for it.
#[tokio::test]
async fn an_edit_counts_the_coupons_that_were_asked_for_before_it() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 10 })).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    let mut keeper = world.pool.begin().await.unwrap();
    sqlx::query("SELECT outbox_lock(0::smallint)").execute(&mut *keeper).await.unwrap();
    let waiting = async |sessions: i64| {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory'";
        let waiting =
            async || sqlx::query_scalar::<_, i64>(waiting).fetch_one(&world.pool).await.unwrap() == sessions;
        wait_until("they wait for the shard", SOON, waiting).await;
    };
    let (api, path) = (world.api(), format!("/v1/campaigns/{campaign}/coupons"));
    let claim = tokio::spawn(async move { api.post(&path, &json!({ "user_id": "bob" })).await });
    waiting(1).await;
    let api = world.api();
    let lowered = tokio::spawn(async move { edit(&api, campaign, json!({ "quantity": 1 })).await });
    waiting(2).await;
    keeper.commit().await.unwrap();
    let (claim, lowered) = (claim.await.unwrap(), lowered.await.unwrap());
    assert_eq!(claim.status, 201, "{claim:?}");
    let reason = "must be at least 2, the coupons that are issued";
    assert_eq!((lowered.status, &lowered.body["errors"][0]["reason"]), (422, &json!(reason)), "{lowered:?}");
    world.balanced().await;
    world.close().await;
}

/// Both moments of a window, moved while the campaign waits, and the end while it is open.
#[tokio::test]
async fn a_window_that_moves_takes_the_gate_along() {
    let world = World::start().await;
    let campaign = campaign_in(&world, "scheduled").await;
    assert_eq!(world.claim(campaign, "alice").await.problem(), "not-open");
    let soon = in_seconds(2);
    assert_eq!(edit(&world.api(), campaign, json!({ "opens_at": soon })).await.status, 200);
    // Too late: claims of users whose clocks are ahead may be on their way.
    for (field, value) in [("opens_at", json!(in_seconds(600))), ("per_user_limit", json!(2))] {
        let late = edit(&world.api(), campaign, json!({ field: value })).await;
        assert_eq!((late.status, late.problem()), (409, "not-editable-in-state"), "{late:?}");
    }
    let won = async || world.claim(campaign, "alice").await.status == 201;
    wait_until("the campaign opens at the new time", SOON, won).await;
    assert_eq!(edit(&world.api(), campaign, json!({ "closes_at": in_seconds(1) })).await.status, 200);
    let over =
        async || world.claim(campaign, &ulid::Ulid::generate().to_string()).await.problem() == "closed";
    wait_until("the campaign closes at the new time", SOON, over).await;
    let closed = async || shown(&world, campaign).await["state"] == "closed";
    wait_until("everybody sees that it is closed", SOON, closed).await;
    let late = edit(&world.api(), campaign, json!({ "closes_at": in_seconds(600) })).await;
    assert_eq!((late.status, late.problem()), (409, "not-editable-in-state"), "{late:?}");
    world.balanced().await;
    world.close().await;
}
