//! What takes minutes, or another build: `make drill`.

use std::env;
use std::time::{Duration, Instant};

use coupon_dispatcher::rush::Rush;
use outbox_relay::Shard;
use serde_json::json;

use crate::support::{SOON, World, owns, wait_until};

const SHARD: Shard = Shard(0);
const MINUTE: Duration = Duration::from_secs(60);

/// Of the relay and the projector, by what Postgres knows them.
async fn leaders(world: &World) -> [i32; 2] {
    [world.leader("outbox_relay", SHARD).await, world.leader("projector_projections", SHARD).await]
}

/// All that it had in hand the other has done meanwhile; when it wakes, it does none of it again.
#[tokio::test]
async fn a_process_that_stands_still_for_a_minute_does_no_harm_when_it_wakes() {
    let fault = owns("process-frozen-for-a-minute");
    let mut world = World::with_processes(&[""]).await;
    let frozen = leaders(&world).await;
    world.add_process("").await;
    let campaign = world.open_campaign(json!({ "quantity": 10_000 })).await;
    let rush = tokio::spawn(world.rush(campaign, 6_000).run());
    world.issued(campaign, 1_000).await;
    world.processes[0].freeze();
    fault.fired(1);
    let frozen_at = Instant::now();
    wait_until("a minute is over", 2 * MINUTE, async || {
        assert_eq!(world.processes[1].http().get("/readyz").await.status, 200);
        frozen_at.elapsed() >= MINUTE
    })
    .await;
    let others = leaders(&world).await;
    assert!(frozen.iter().zip(&others).all(|(frozen, other)| frozen != other), "{frozen:?} {others:?}");
    world.balanced().await;
    world.processes[0].thaw();
    world.answered(&rush.await.unwrap()).await;
    wait_until("it serves", SOON, async || world.api().get("/readyz").await.status == 200).await;
    world.answered(&world.rush(campaign, 11_000).run().await).await;
    assert_eq!((world.coupons(campaign).await, leaders(&world).await), (10_000, others));
    fault.healed();
    world.close().await;
}

/// Rolled out one process at a time while users claim, and taken back for one of them. `PREVIOUS` is the binary of
/// the version before.
#[tokio::test]
async fn the_version_before_and_this_one_serve_together() {
    let fault = owns("two-versions");
    let previous = env::var("PREVIOUS").expect("PREVIOUS names the binary of the version before");
    let mut world = World::bare(1).await;
    let environment = world.environment();
    let mut migrate = world.program("migrate", &[&previous, "migrate"]);
    for (name, value) in environment {
        migrate.set(name, &value);
    }
    migrate.launch();
    assert_eq!(migrate.ended().await.code(), Some(0), "{}", migrate.log());
    for roles in ["", "", "api"] {
        let mut process = world.process(roles);
        process.program(&previous);
        process.start().await;
        world.processes.push(process);
    }
    let campaign = world.open_campaign(json!({ "quantity": 20_000 })).await;
    let rush = tokio::spawn(Rush { rate: 1_500, ..world.rush(campaign, 21_000) }.run());
    world.issued(campaign, 1_000).await;
    let migrated = world.coupon(&["migrate"]).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let this = env!("CARGO_BIN_EXE_coupon");
    for (process, binary) in [(0, this), (1, this), (0, &*previous), (2, this), (0, this), (1, &*previous)] {
        let old = &mut world.processes[process];
        old.terminate();
        assert_eq!(old.ended().await.code(), Some(0));
        old.program(binary);
        old.start().await;
        fault.fired(1);
        let issued = world.coupons(campaign).await;
        world.issued(campaign, issued + 1_000).await;
    }
    world.answered(&rush.await.unwrap()).await;
    assert_eq!(world.coupons(campaign).await, 20_000);
    fault.healed();
    world.close().await;
}
