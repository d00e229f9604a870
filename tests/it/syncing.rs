//! To sync a campaign: an operator has its gate compared with Postgres and loaded again.

use serde_json::{Value, json};

use crate::support::{SOON, World, wait_until};

async fn tell(world: &World, command: &[&str]) {
    let mut redis = world.redis().await;
    redis::cmd(command[0]).arg(&command[1..]).exec_async(&mut redis).await.unwrap();
}

#[tokio::test]
async fn what_a_gate_has_wrong_is_told_and_put_right() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 5 })).await;
    for user in ["alice", "bob"] {
        assert_eq!(world.claim(campaign, user).await.status, 201);
    }
    world.pending(campaign, 0).await;
    let path = format!("/v1/campaigns/{campaign}/sync");
    let right = world.api().post(&path, &Value::Null).await;
    let seats = |taken: i64| json!({ "taken": taken, "pending": 0 });
    let expected = json!({ "fields": [], "issued": 2, "before": seats(2), "after": seats(2) });
    assert_eq!((right.status, &right.body), (200, &expected));

    // The sweeper may be faster.
    let (gate, holders) = (World::gate(campaign, ""), World::gate(campaign, ":holders"));
    let told = async |command: &[&str], is_told: &dyn Fn(&Value) -> bool| {
        wait_until(&command.join(" "), SOON, async || {
            tell(&world, command).await;
            let synced = world.api().post(&path, &json!({})).await;
            assert_eq!((synced.status, &synced.body["after"]), (200, &seats(2)), "{synced:?}");
            is_told(&synced.body)
        })
        .await;
    };
    let quantity = json!([{ "field": "quantity", "found": "1", "expected": "5" }]);
    told(&["HSET", &gate, "quantity", "1"], &|synced| synced["fields"] == quantity).await;
    let missing = json!([{ "field": "closes_at", "found": null }]);
    told(&["HDEL", &gate, "closes_at"], &|synced| {
        synced["fields"][0]["field"] == missing[0]["field"] && synced["fields"][0]["found"].is_null()
    })
    .await;
    told(&["SREM", &holders, "bob"], &|synced| synced["before"] == seats(1)).await;
    told(&["SADD", &holders, "ghost"], &|synced| synced["before"] == seats(3)).await;
    told(&["FLUSHALL"], &|synced| synced["before"].is_null()).await;
    told(&["SET", &gate, "of another type"], &|synced| synced["before"].is_null()).await;
    assert_eq!(world.claim(campaign, "carol").await.status, 201);
    world.balanced().await;
    world.close().await;
}

/// As often as the operator likes, while users claim.
#[tokio::test]
async fn a_sync_in_a_rush_neither_oversells_nor_forgets() {
    let world = World::with_processes(&["", "api"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 2_000 })).await;
    let rush = tokio::spawn(world.rush(campaign, 3_000).run());
    world.issued(campaign, 20).await;
    let path = format!("/v1/campaigns/{campaign}/sync");
    let mut synced = 0;
    while !rush.is_finished() {
        for process in [0, 1] {
            let answer = world.processes[process].http().post(&path, &Value::Null).await;
            assert!([200, 503].contains(&answer.status), "{answer:?}");
            synced += usize::from(answer.status == 200);
        }
    }
    rush.await.unwrap();
    assert!(synced > 0);
    assert_eq!(world.coupons(campaign).await, 2_000);
    world.pending(campaign, 0).await;
    world.balanced().await;
    world.close().await;
}

#[tokio::test]
async fn a_sync_is_refused_or_replayed_as_every_request() {
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let path = format!("/v1/campaigns/{campaign}/sync");
    let keyed = world.api().with("idempotency-key", "one");
    let first = keyed.post(&path, &Value::Null).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    let again = keyed.post(&path, &Value::Null).await;
    assert_eq!((again.header("idempotency-replayed"), &again.text), (Some("true"), &first.text));
    let unknown = format!("/v1/campaigns/{}/sync", ulid::Ulid::generate());
    assert_eq!(world.api().post(&unknown, &Value::Null).await.problem(), "not-found");
    world.servers.redis.kill().await;
    let refused = world.api().post(&path, &Value::Null).await;
    assert_eq!((refused.status, refused.problem()), (503, "gate-unavailable"), "{refused:?}");
    world.servers.redis.start().await.unwrap();
    world.close().await;
}
