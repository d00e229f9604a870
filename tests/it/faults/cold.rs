//! Gates that Redis has lost, of large campaigns and small ones, and of those that are about to open.

use std::time::Duration;

use coupon_dispatcher::ids::CampaignId;
use serde_json::json;
use uuid::Uuid;

use super::gate::tell_redis;
use crate::support::{SOON, World, in_seconds, owns, wait_until};

/// Enough that loading them takes many times as long as a claim.
const COUPONS: i32 = 80_000;

/// For all of the large gates on a crowded machine.
const LOADED: Duration = Duration::from_secs(60);

async fn is_loaded(world: &World, campaign: CampaignId) -> bool {
    redis::cmd("EXISTS").arg(World::gate(campaign, "")).query_async(&mut world.redis().await).await.unwrap()
}

#[tokio::test]
async fn a_small_gate_does_not_wait_until_large_ones_are_loaded() {
    let fault = owns("redis-emptied");
    let world = World::start().await;
    let mut large = Vec::new();
    for _ in 0..2 {
        let campaign = world.open_campaign(json!({ "quantity": 1_000_000 })).await;
        sqlx::query(
            "INSERT INTO coupons (id, campaign_id, user_id, nth, number, code, issued_at, expires_at) \
             SELECT gen_random_uuid(), $1, 'user-' || n, 1, n, n::text, now(), now() + interval '1 day' \
             FROM generate_series(1, $2) AS n",
        )
        .bind(Uuid::from(campaign.0))
        .bind(COUPONS)
        .execute(&world.pool)
        .await
        .unwrap();
        large.push(campaign);
    }
    let small = world.open_campaign(json!({})).await;
    tell_redis(&world, &["FLUSHALL"]).await;
    fault.fired(1);
    for campaign in &large {
        assert_eq!(world.claim(*campaign, "alice").await.problem(), "gate-unavailable");
    }
    wait_until("a claim on the small campaign wins", SOON, async || {
        world.claim(small, "alice").await.status == 201
    })
    .await;
    let mut behind = 0;
    for campaign in &large {
        behind += usize::from(!is_loaded(&world, *campaign).await);
    }
    assert!(behind > 0, "the small gate came after all large ones");
    // A load that ended a moment before is not repeated for the first claim that asks.
    for campaign in &large {
        let path = format!("/v1/campaigns/{campaign}/coupons");
        let held = async || world.api().post(&path, &json!({ "user_id": "user-1" })).await.status == 409;
        wait_until("a holder of a large campaign is shown their coupon", LOADED, held).await;
    }
    fault.healed();
    world.execute("DELETE FROM coupons WHERE code = number::text").await;
    tell_redis(&world, &["FLUSHALL"]).await;
    world.close().await;
}

#[tokio::test]
async fn the_gate_of_a_scheduled_campaign_is_loaded_before_it_opens() {
    let fault = owns("redis-emptied");
    let world = World::start().await;
    let campaign = world.create_campaign(json!({ "opens_at": in_seconds(20) })).await;
    world.api().post(&format!("/v1/campaigns/{campaign}/open"), &json!(null)).await;
    tell_redis(&world, &["FLUSHALL"]).await;
    fault.fired(1);
    wait_until("the gate is loaded though nobody asks", SOON, async || is_loaded(&world, campaign).await)
        .await;
    let before: bool =
        sqlx::query_scalar("SELECT opens_at > now() FROM campaigns").fetch_one(&world.pool).await.unwrap();
    assert!(before, "it has opened meanwhile");
    fault.healed();
    world.close().await;
}
