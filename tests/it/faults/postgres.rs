//! Postgres is killed, restarted, or hangs. What else it may lack: see `storage`.

use std::time::Duration;

use serde_json::json;

use super::survives;
use crate::support::{SOON, World, draft, owns, wait_for, wait_until};

/// Also where the default is to promise what may be lost.
#[tokio::test]
async fn a_postgres_that_is_killed_in_a_rush_has_every_promised_coupon() {
    let mut world = World::bare(1).await;
    world.migrate().await;
    let hasty = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$";
    sqlx::raw_sql(hasty).execute(&world.pool).await.unwrap();
    for roles in ["", "api"] {
        world.add_process(roles).await;
    }
    survives(&mut world, &owns("postgres-killed"), async |world: &mut World, _| {
        world.servers.postgres.kill().await;
        world.servers.postgres.start().await.unwrap();
    })
    .await;
    world.close().await;
}

#[tokio::test]
async fn a_postgres_that_is_restarted_in_a_rush_is_survived() {
    let mut world = World::start().await;
    survives(&mut world, &owns("postgres-restarted"), async |world: &mut World, _| {
        world.servers.postgres.stop().await;
        world.servers.postgres.start().await.unwrap();
    })
    .await;
    world.close().await;
}

#[tokio::test]
async fn a_postgres_that_hangs_in_a_rush_is_survived() {
    let mut world = World::start().await;
    survives(&mut world, &owns("postgres-frozen"), async |world: &mut World, _| {
        world.servers.postgres.freeze();
        let gave_up = async || world.processes[0].log().contains("Postgres does not answer");
        wait_until("a writer gives up", SOON, gave_up).await;
        world.servers.postgres.thaw();
    })
    .await;
    world.close().await;
}

#[tokio::test]
async fn a_restart_in_a_quiet_hour_is_not_found_out_by_a_claim() {
    let fault = owns("postgres-restarted-unnoticed");
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    world.claim(campaign, "alice").await;
    world.servers.postgres.stop().await;
    fault.fired(1);
    let unready = async || world.api().get("/readyz").await.status == 503;
    wait_until("the writer notices", SOON, unready).await;
    world.servers.postgres.start().await.unwrap();
    let ready = async || world.api().get("/readyz").await.status == 200;
    wait_until("the process is ready", SOON, ready).await;
    assert_eq!(world.claim(campaign, "bob").await.status, 201);
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn without_postgres_nothing_is_promised_and_no_seat_is_lost() {
    let fault = owns("postgres-away");
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 4 })).await;
    world.claim(campaign, "first").await;
    world.servers.postgres.kill().await;
    fault.fired(1);
    let unready = async || Some(world.api().get("/readyz").await).filter(|answer| answer.status == 503);
    let unready = wait_for("the process knows", SOON, unready).await;
    assert_eq!(unready.body["postgres"], "down");
    let users = ["alice", "bob", "carol"];
    for user in users {
        let refused = world.claim(campaign, user).await;
        assert_eq!((refused.status, refused.problem()), (503, "storage-unavailable"), "{refused:?}");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    world.servers.postgres.start().await.unwrap();
    for user in users {
        let won = async || world.claim(campaign, user).await.status == 201;
        wait_until("the seat is on sale", SOON, won).await;
    }
    assert_eq!(world.claim(campaign, "dave").await.problem(), "sold-out");
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_claim_is_answered_while_postgres_hangs() {
    let fault = owns("postgres-frozen");
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    world.claim(campaign, "alice").await;
    world.servers.postgres.freeze();
    fault.fired(1);
    let refused = world.claim(campaign, "bob").await;
    world.servers.postgres.thaw();
    assert_eq!((refused.status, refused.problem()), (503, "storage-unavailable"));
    assert!(refused.took < Duration::from_secs(8), "{:?}", refused.took);
    let answered = wait_for("bob has a coupon", SOON, async || {
        Some(world.claim(campaign, "bob").await).filter(|answer| answer.status != 503)
    });
    assert!([201, 409].contains(&answered.await.status));
    fault.healed();
    world.close().await;
}

/// Nor by one that was used a moment before, when nothing has told the process yet.
#[tokio::test]
async fn a_quick_restart_is_not_found_out_by_a_read() {
    let fault = owns("postgres-restarted-unnoticed");
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let coupon = world.claim(campaign, "alice").await.body["id"].as_str().unwrap().to_owned();
    let end =
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'coupon'";
    for path in [
        "/v1/campaigns".to_owned(),
        format!("/v1/campaigns/{campaign}"),
        format!("/v1/coupons/{coupon}"),
        "/v1/users/alice/coupons".to_owned(),
    ] {
        let before = world.api().get(&path).await;
        assert_eq!(before.status, 200, "{before:?}");
        world.execute(end).await;
        fault.fired(1);
        let after = world.api().get(&path).await;
        assert_eq!((after.status, after.body), (200, before.body), "{path}");
    }
    // A change is made once: the question before it, what time it is, finds out.
    world.execute(end).await;
    let created = world.api().post("/v1/campaigns", &draft(json!({}))).await;
    assert_eq!(created.status, 201, "{created:?}");
    fault.healed();
    world.close().await;
}
