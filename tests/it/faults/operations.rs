//! What operators do while users claim: nobody is to notice.

use super::survives;
use crate::support::{World, owns};

/// One after the other; the other one serves meanwhile.
#[tokio::test]
async fn two_processes_are_restarted_in_turn_and_fail_nobody() {
    let mut world = World::with_processes(&["", ""]).await;
    survives(&mut world, &owns("rolling-restart"), async |world: &mut World, campaign| {
        for process in [0, 1] {
            world.processes[process].terminate();
            assert_eq!(world.processes[process].ended().await.code(), Some(0));
            world.processes[process].start().await;
            let issued = world.coupons(campaign).await;
            world.issued(campaign, (issued + 100).min(super::QUANTITY)).await;
        }
    })
    .await;
    world.close().await;
}

/// A newer program's migration adds columns, and its version to the list: processes that run go on, and one
/// more of them can be started.
#[tokio::test]
async fn a_migration_is_applied_in_a_rush() {
    let mut world = World::with_processes(&["api", "api,relay,project"]).await;
    survives(&mut world, &owns("migration-while-serving"), async |world: &mut World, campaign| {
        let tables =
            ["campaigns", "coupons", "outbox", "wallet", "settlement_entries", "projection_positions"];
        for (number, table) in (1..).zip(tables) {
            world.execute(&format!("ALTER TABLE {table} ADD COLUMN later integer")).await;
            world.issued(campaign, super::QUANTITY / 4 + 100 * number).await;
        }
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     VALUES (99, 'later', true, '', 0)";
        world.execute(newer).await;
        let migrated = world.coupon(&["migrate"]).await;
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
        world.add_process("api").await;
    })
    .await;
    for process in &world.processes {
        let log = process.log();
        assert!(!log.contains("cached plan") && !log.contains("starts over"), "{log}");
    }
    world.close().await;
}
