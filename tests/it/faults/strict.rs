//! The gate refuses more than Postgres does, or holds something that it should not: found and repaired by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use coupon_dispatcher::ids::CampaignId;
use redis::AsyncCommands as _;
use serde_json::json;
use uuid::Uuid;

use super::gate::tell_redis;
use crate::support::{World, owns, wait_until};

/// For the gate to equal Postgres again, on a crowded machine. The sweeper looks twice a second, and loads a gate
/// again after 5 s at the earliest.
const REPAIRED: Duration = Duration::from_secs(15);

/// What the gate holds of a campaign.
async fn fields(world: &World, campaign: CampaignId) -> BTreeMap<String, String> {
    world.redis().await.hgetall(World::gate(campaign, "")).await.unwrap()
}

/// Claims win again, and the gate holds what it held before.
async fn is_repaired(world: &World, campaign: CampaignId, before: &BTreeMap<String, String>, lie: &str) {
    let user = lie.replace(' ', "-");
    let won = async || world.claim(campaign, &format!("after-{user}")).await.status == 201;
    wait_until(&format!("a claim wins after {lie}"), REPAIRED, won).await;
    let equal = async || fields(world, campaign).await == *before;
    wait_until(&format!("the gate is as before {lie}"), REPAIRED, equal).await;
}

#[tokio::test]
async fn a_field_that_is_changed_lost_or_garbage_is_repaired() {
    let fault = owns("gate-stricter");
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 100 })).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.pending(campaign, 0).await;
    let before = fields(&world, campaign).await;
    let gate = World::gate(campaign, "");
    let mut lies = vec![
        vec!["HSET", &gate, "quantity", "1"],
        vec!["HSET", &gate, "state", "closed"],
        vec!["HSET", &gate, "state", "closed", "version", "99"],
        vec!["HSET", &gate, "state", "draft", "version", "1"],
        vec!["HSET", &gate, "opens_at", "4102444800000"],
        vec!["HSET", &gate, "closes_at", "1000"],
        vec!["HSET", &gate, "limit", "0"],
        vec!["HSET", &gate, "limit", "1000000000"],
        vec!["HSET", &gate, "lease", "86400000"],
        vec!["HSET", &gate, "expires_at", "4102444800000"],
    ];
    for field in before.keys() {
        lies.push(vec!["HDEL", &gate, field]);
        lies.push(vec!["HSET", &gate, field, "garbage"]);
    }
    for lie in lies {
        tell_redis(&world, &lie).await;
        fault.fired(1);
        is_repaired(&world, campaign, &before, &lie.join(" ").replace(&gate, "gate")).await;
    }
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn keys_that_never_expire_or_too_soon_are_repaired() {
    let fault = owns("gate-stricter");
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.pending(campaign, 0).await;
    let mut redis = world.redis().await;
    let keys = [World::gate(campaign, ""), World::gate(campaign, ":holders")];
    for lie in [&["PERSIST"][..], &["EXPIRE", "3000"]] {
        for key in &keys {
            let before: i64 = redis.pttl(key).await.unwrap();
            let mut command = lie.to_vec();
            command.insert(1, key);
            tell_redis(&world, &command).await;
            fault.fired(1);
            let as_before = async || {
                let now: i64 = redis.pttl(key).await.unwrap();
                (before - now).abs() < 60_000
            };
            wait_until(&format!("{key} expires as before {lie:?}"), REPAIRED, as_before).await;
        }
    }
    fault.healed();
    world.close().await;
}

/// As many holders as there are coupons to give, and nearly all of them without a coupon.
#[tokio::test]
async fn holders_without_coupons_do_not_keep_the_others_out() {
    let fault = owns("gate-stricter");
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 3 })).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.pending(campaign, 0).await;
    let holders = World::gate(campaign, ":holders");
    tell_redis(&world, &["SADD", &holders, "ghost-1", "ghost-2"]).await;
    fault.fired(1);
    let won = async || world.claim(campaign, "bob").await.status == 201;
    wait_until("a claim wins", REPAIRED, won).await;

    // The holder is another, and their number the same: only the names tell.
    assert_eq!(world.claim(campaign, "carol").await.status, 201);
    world.pending(campaign, 0).await;
    tell_redis(&world, &["SREM", &holders, "alice"]).await;
    tell_redis(&world, &["SADD", &holders, "ghost-3"]).await;
    fault.fired(1);
    let shown = async || world.claim(campaign, "alice").await.status == 409;
    wait_until("a holder is shown their coupon", REPAIRED, shown).await;
    let is_member = async || world.redis().await.sismember::<_, _, bool>(&holders, "ghost-3").await.unwrap();
    wait_until("the ghost is gone", REPAIRED, async || !is_member().await).await;
    fault.healed();
    world.close().await;
}

/// Before anything of the closing is published: the stream is as old as the database.
#[tokio::test]
async fn a_database_restored_to_before_the_close_is_open_again() {
    let fault = owns("gate-stricter");
    let mut world = World::with_processes(&["api", "relay,project"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 5 })).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.pending(campaign, 0).await;
    world.balanced().await;
    world.processes[1].kill();
    world.execute("CREATE TABLE backup AS SELECT * FROM campaigns").await;
    let closed = world.api().post(&format!("/v1/campaigns/{campaign}/close"), &json!(null)).await;
    assert_eq!(closed.body["state"], "closed", "{closed:?}");
    let closed_in_gate = async || fields(&world, campaign).await["state"] == "closed";
    wait_until("the gate is closed", REPAIRED, closed_in_gate).await;

    world.processes[0].kill();
    world.execute("DELETE FROM outbox WHERE position = (SELECT max(position) FROM outbox)").await;
    world
        .execute("DELETE FROM campaigns; INSERT INTO campaigns SELECT * FROM backup; DROP TABLE backup")
        .await;
    fault.fired(1);
    let finished = world.coupon(&["audit", "--json"]).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let said: serde_json::Value = serde_json::from_str(&finished.out).unwrap();
    let difference = &said["sheet"]["first_difference"];
    assert_eq!(
        (&difference["leg"], &difference["kind"], &difference["field"]),
        (&json!("gate"), &json!("gate_field"), &json!("state")),
        "{difference}"
    );
    assert_eq!((&difference["expected"], &difference["found"]), (&json!("open"), &json!("closed")));
    assert_eq!(difference["campaign_id"], json!(campaign));

    world.processes[0].start().await;
    let won = async || world.claim(campaign, "bob").await.status == 201;
    wait_until("a claim wins", REPAIRED, won).await;
    world.processes[1].start().await;
    fault.healed();
    world.close().await;
}

/// A token that no loader set, or none that ends.
#[tokio::test]
async fn a_loader_token_without_an_end_keeps_no_gate_from_being_loaded() {
    let fault = owns("gate-stricter");
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 5 })).await;
    let loader = World::gate(campaign, ":loader");
    for (user, lie) in [("alice", &["SET", &loader, "x"][..]), ("bob", &["SADD", &loader, "x"])] {
        tell_redis(&world, lie).await;
        tell_redis(&world, &["DEL", &World::gate(campaign, "")]).await;
        fault.fired(1);
        let won = async || world.claim(campaign, user).await.status == 201;
        wait_until(&format!("{user} wins after {lie:?}"), REPAIRED, won).await;
    }
    fault.healed();
    world.close().await;
}

/// A closed campaign whose end is far away: its gate is not kept until then.
#[tokio::test]
async fn the_gate_of_a_closed_campaign_expires_a_day_after_the_close() {
    let world = World::start().await;
    let far = json!({ "quantity": 2, "closes_at": "8999-01-01T00:00:00Z" });
    let (campaign, before) = (world.open_campaign(far.clone()).await, world.open_campaign(far).await);
    for campaign in [campaign, before] {
        assert_eq!(world.claim(campaign, "alice").await.status, 201);
        world.pending(campaign, 0).await;
    }
    let mut redis = world.redis().await;
    let days = 24 * 3_600_000;
    assert!(redis.pttl::<_, i64>(World::gate(campaign, "")).await.unwrap() > 1_000 * days);
    world.api().post(&format!("/v1/campaigns/{campaign}/close"), &json!(null)).await;
    // As a process of the version before closes: it does not say when.
    sqlx::query("UPDATE campaigns SET state = 'closed', version = version + 1 WHERE id = $1")
        .bind(Uuid::from(before.0))
        .execute(&world.pool)
        .await
        .unwrap();
    for campaign in [campaign, before] {
        for part in ["", ":holders"] {
            let key = World::gate(campaign, part);
            let soon = async || (1..=days).contains(&redis.pttl::<_, i64>(&key).await.unwrap());
            wait_until("the keys expire within a day", REPAIRED, soon).await;
        }
    }
    // Then only Postgres answers.
    for campaign in [campaign, before] {
        sqlx::query("UPDATE campaigns SET closed_at = now() - interval '2 days' WHERE id = $1")
            .bind(Uuid::from(campaign.0))
            .execute(&world.pool)
            .await
            .unwrap();
        tell_redis(&world, &["DEL", &World::gate(campaign, ""), &World::gate(campaign, ":holders")]).await;
        let held = async || world.claim(campaign, "alice").await.problem() == "already-issued";
        wait_until("a holder is shown their coupon", REPAIRED, held).await;
        assert_eq!(world.claim(campaign, "bob").await.problem(), "closed");
    }
    world.close().await;
}
