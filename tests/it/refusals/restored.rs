//! Postgres is restored to an earlier state under processes that refuse users from memory.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{QUANTITY, VALID_FOR, Winner};
use crate::support::{SOON, World, owns, wait_until};

/// For the gate to give the seats that the restored database has, on a crowded machine: the sweeper finds within a
/// second that it contradicts Postgres, and loads a gate again after 5 s at the earliest.
const REPAIRED: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_database_that_is_restored_is_believed_and_not_the_memory() {
    let fault = owns("postgres-rewound");
    let mut world = World::with_processes(&["", "api"]).await;
    let campaign = world.open_campaign(json!({ "quantity": QUANTITY })).await;
    let kept = world.winners(campaign, "kept", QUANTITY / 2).await;
    world.promised(kept.iter().map(Winner::coupon));
    world.balanced().await;
    let copy = world.copy_of_postgres();
    let lost = world.winners(campaign, "lost", QUANTITY / 2).await;
    world.balanced().await;
    for process in [0, 1] {
        world.remembers(process, campaign, "sold-out").await;
    }
    world.rewind_postgres(&copy).await;
    fault.fired(1);
    let restored = Instant::now();
    for process in &mut world.processes {
        process.ready().await;
    }

    // Process 1 is not asked yet: what it remembers is of the lost database.
    let mut late = Vec::new();
    let given = async || {
        for winner in &kept {
            let answer = world.claim_at(0, campaign, &winner.user).await;
            assert!(winner.is_shown(&answer) || answer.status == 503, "{answer:?}");
        }
        let answer = world.claim(campaign, "late-0").await;
        late.extend(Winner::of("late-0", &answer));
        assert!(!late.is_empty() || answer.status == 503 || answer.problem() == "sold-out", "{answer:?}");
        !late.is_empty()
    };
    wait_until("a new user gets a coupon", REPAIRED, given).await;
    let given = async || {
        let user = &lost[0].user;
        late.extend(Winner::of(user, &world.claim(campaign, user).await));
        late.len() == 2
    };
    wait_until("a user whose coupon is lost gets another", REPAIRED, given).await;

    // As many coupons as before, and the last one is another user's.
    let sold = async || {
        let user = format!("late-{}", late.len());
        late.extend(Winner::of(&user, &world.claim(campaign, &user).await));
        kept.len() + late.len() == QUANTITY
    };
    wait_until("all coupons are issued again", REPAIRED, sold).await;
    wait_until("the refusals are too old", SOON, async || restored.elapsed() > VALID_FOR).await;
    for process in [1, 0] {
        world.remembers(process, campaign, "sold-out").await;
        world.are_shown_their_coupons(process, campaign, kept.iter().chain(&late)).await;
        let answer = world.claim_at(process, campaign, &lost[1].user).await;
        assert_eq!(answer.problem(), "sold-out", "{answer:?}");
    }
    let reason = world.halted().await;
    assert!(reason.contains("the database was restored to an earlier time"), "{reason}");
    world.begin_epoch().await;
    fault.healed();
    world.close().await;
}
