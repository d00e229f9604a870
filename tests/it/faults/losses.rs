//! Redis has lost scripts, holders or keys, without a word.

use serde_json::json;

use super::QUANTITY;
use super::redis::{ask, of_info, oversells_nothing, tell};
use crate::support::{SOON, World, owns, wait_for, wait_until};

#[tokio::test]
async fn a_redis_whose_scripts_are_flushed_in_a_rush_is_survived() {
    let world = World::with_processes(&["", "api"]).await;
    oversells_nothing(world, &owns("redis-scripts-flushed"), async |world: &mut World, campaign| {
        for percent in 26..90 {
            tell(world, "SCRIPT FLUSH").await;
            world.issued(campaign, QUANTITY * percent / 100).await;
        }
    })
    .await;
}

/// As after a failover to a replica that lagged behind, or the restore of an old backup.
#[tokio::test]
async fn a_redis_that_goes_back_in_time_in_a_rush_oversells_nothing() {
    let world = World::with_processes(&["", "api"]).await;
    oversells_nothing(world, &owns("redis-rewound"), async |world: &mut World, campaign| {
        let copy = world.copy_of_redis();
        let holders: i64 = ask(world, &format!("SCARD {}", World::gate(campaign, ":holders"))).await.unwrap();
        assert!(holders < QUANTITY * 3 / 4, "nothing will be forgotten");
        world.issued(campaign, QUANTITY * 3 / 4).await;
        world.rewind_redis(&copy).await;
    })
    .await;
}

#[tokio::test]
async fn a_gate_that_went_back_in_time_is_loaded_anew_though_nobody_asks() {
    let fault = owns("redis-rewound");
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 30 })).await;
    world.claim(campaign, "first").await;
    // Redis writes once a second to its file.
    let copy = world.copy_of_redis();
    for number in 0..28 {
        assert_eq!(world.claim(campaign, &format!("user-{number}")).await.status, 201);
    }
    world.rewind_redis(&copy).await;
    world.balanced().await;
    let last = wait_for("claims are taken", SOON, async || {
        Some(world.claim(campaign, "last").await).filter(|answer| answer.status != 503)
    });
    assert_eq!(last.await.status, 201);
    assert_eq!(world.claim(campaign, "too-late").await.problem(), "sold-out");
    fault.fired(1);
    world.close().await;
}

/// Keys vanish one by one, in the midst of whatever is done with the others.
#[tokio::test]
async fn a_redis_that_evicts_keys_of_the_gate_in_a_rush_oversells_nothing() {
    let world = World::with_processes(&["", "api"]).await;
    oversells_nothing(world, &owns("redis-evicts"), async |world: &mut World, campaign| {
        tell(world, "CONFIG SET maxmemory-policy allkeys-random").await;
        for percent in [30, 45, 60, 75, 90] {
            let before = evicted(world).await;
            wait_until("a key has vanished", SOON, async || {
                let used = of_info(world, "used_memory").await;
                tell(world, &format!("CONFIG SET maxmemory {}", used - 30_000)).await;
                evicted(world).await > before
            })
            .await;
            tell(world, "CONFIG SET maxmemory 0").await;
            world.issued(campaign, QUANTITY * percent / 100).await;
        }
        tell(world, "CONFIG SET maxmemory-policy noeviction").await;
    })
    .await;
}

async fn evicted(world: &World) -> u64 {
    of_info(world, "evicted_keys").await
}
