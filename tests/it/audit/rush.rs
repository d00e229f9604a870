//! Audits while thousands of users claim: what is on its way is no difference, and what is lost is one.

use async_nats::jetstream;
use coupon_dispatcher::audit::{Scope, Sheet, audit};
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::ids::CampaignId;
use coupon_dispatcher::rush::{Results, Rush};
use redis::AsyncCommands as _;
use serde_json::json;
use tokio::task::JoinHandle;
use ulid::Ulid;
use uuid::Uuid;

use super::SHARD;
use crate::support::World;

/// Users of a rush, and claims a second: more than the audits see, however busy the machine is.
const USERS: usize = 200_000;
const RATE: u32 = 500;
/// Audits of each kind during the rush.
const AUDITS: usize = 3;

async fn audited(world: &World, full: bool) -> Sheet {
    let connections = world.connections().await.unwrap();
    audit(&connections, 1, Scope { campaign: None, full }).await.unwrap()
}

/// Lets users claim until the rush is aborted.
fn rushing(world: &World, campaign: CampaignId) -> JoinHandle<Results> {
    let rush = world.rush(campaign, USERS);
    tokio::spawn(Rush { asks: 1, rate: RATE, ..rush }.run())
}

/// The words of the first difference.
async fn difference(world: &World, full: bool) -> String {
    let sheet = audited(world, full).await;
    sheet.difference.unwrap_or_else(|| panic!("full: {full}: balanced")).to_string()
}

#[tokio::test]
async fn a_rush_is_balanced_whenever_it_is_audited() {
    let world = World::with_processes(&["api,relay", "api,project"]).await;
    let campaign = world.open_campaign(json!({ "quantity": USERS })).await;
    let rush = rushing(&world, campaign);
    world.issued(campaign, 50).await;
    for audits in 0..AUDITS {
        for full in [false, true] {
            assert!(!rush.is_finished(), "the rush was over after {audits} audits of each kind");
            let sheet = audited(&world, full).await;
            assert!(sheet.is_balanced(), "full: {full}, after {audits} audits of each kind:\n{sheet}");
        }
    }
    rush.abort();
    world.close().await;
}

/// A coupon that was issued early in the rush: its id, its user and its number.
async fn early_coupon(world: &World, campaign: CampaignId) -> (Ulid, String) {
    let coupon = sqlx::query_as("SELECT id, user_id FROM coupons WHERE campaign_id = $1 AND number = 10");
    let (id, user): (Uuid, String) =
        coupon.bind(Uuid::from(campaign.0)).fetch_one(&world.pool).await.unwrap();
    (id.into(), user)
}

/// Each loss is found by the first audit after it.
#[tokio::test]
async fn a_loss_during_a_rush_is_found_by_one_audit() {
    let world = World::with_processes(&["api,relay", "api,project"]).await;
    let campaign = world.open_campaign(json!({ "quantity": USERS })).await;
    let rush = rushing(&world, campaign);
    world.issued(campaign, 200).await;
    let (coupon, user) = early_coupon(&world, campaign).await;
    let execute = async |statement: String| {
        assert_eq!(sqlx::query(&statement).execute(&world.pool).await.unwrap().rows_affected(), 1);
    };

    let id = Uuid::from(coupon);
    for (table, column, name) in
        [("wallet", "coupon_id", "wallet"), ("settlement_entries", "coupon_id", "settlement")]
    {
        sqlx::raw_sql(&format!("CREATE TABLE kept AS SELECT * FROM {table} WHERE {column} = '{id}'"))
            .execute(&world.pool)
            .await
            .unwrap();
        execute(format!("DELETE FROM {table} WHERE {column} = '{id}'")).await;
        let words = difference(&world, true).await;
        assert!(words.contains(&format!("coupon {coupon} is not in the {name}")), "{words}");
        sqlx::raw_sql(&format!("INSERT INTO {table} SELECT * FROM kept; DROP TABLE kept"))
            .execute(&world.pool)
            .await
            .unwrap();
    }
    let mut redis = world.redis().await;
    let holders = World::gate(campaign, ":holders");
    // The numbers agree: a sweeper finds it by the names, and may put it right before the audit comes there.
    let () =
        redis::pipe().srem(&holders, &user).sadd(&holders, "a-thief").query_async(&mut redis).await.unwrap();
    match audited(&world, true).await.difference {
        Some(found) => {
            assert!(found.to_string().contains(&format!("coupon {coupon} has no seat")), "{found}");
        }
        None => assert!(
            redis.sismember::<_, _, bool>(&holders, &user).await.unwrap(),
            "neither found nor repaired"
        ),
    }
    let () =
        redis::pipe().sadd(&holders, &user).srem(&holders, "a-thief").query_async(&mut redis).await.unwrap();

    let stream = jetstream::new(world.nats().await).get_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    stream.delete_message(20).await.unwrap();
    for full in [false, true] {
        let words = difference(&world, full).await;
        assert!(words.contains("issued events") || words.contains("position 20 is event"), "{words}");
    }
    assert!(!rush.is_finished(), "the rush was over before the last audit");
    rush.abort();
    jetstream::new(world.nats().await).delete_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    world.close().await;
}
