//! Seats whose claims came to no known end: nobody is left on them for longer than the lease.

use std::time::{Duration, Instant};

use coupon_dispatcher::ids::CampaignId;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::{SOON, World, owns, wait_for, wait_until};

/// P4: for so long a seat is kept for a claim that may still come to its end.
const LEASE: Duration = Duration::from_secs(10);

struct PendingSeat {
    campaign: CampaignId,
    asked: Instant,
    /// The status that bob is answered, if he is.
    claim: JoinHandle<Option<u16>>,
}

/// A campaign with its last seat on sale, known to the process, and bob's claim of that seat, which
/// waits for a Postgres that does not answer.
async fn with_a_pending_seat(world: &World) -> PendingSeat {
    let campaign = world.open_campaign(json!({ "quantity": 2 })).await;
    world.claim(campaign, "alice").await;
    world.pending(campaign, 0).await;
    world.servers.postgres.freeze();
    let asked = Instant::now();
    let api = world.api();
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let claim =
        tokio::spawn(async move { Some(api.try_post(&path, &json!({ "user_id": "bob" })).await?.status) });
    world.pending(campaign, 1).await;
    PendingSeat { campaign, asked, claim }
}

/// Somebody else gets the last seat, but not before the lease is over.
async fn the_seat_is_sold_again(world: &World, campaign: CampaignId, asked: Instant) {
    let won = async || world.claim(campaign, "carol").await.status == 201;
    wait_until("the seat is on sale again", LEASE + SOON, won).await;
    assert!(asked.elapsed() >= LEASE, "the seat was sold before its lease was over");
    assert_eq!(world.claim(campaign, "bob").await.problem(), "sold-out");
}

#[tokio::test]
async fn a_seat_whose_commit_is_unknown_and_failed_is_sold_again() {
    let fault = owns("commit-unknown");
    let mut world = World::start().await;
    let PendingSeat { campaign, asked, claim } = with_a_pending_seat(&world).await;
    world.servers.postgres.kill().await;
    fault.fired(1);
    assert_eq!(claim.await.unwrap(), Some(503));
    world.servers.postgres.start().await.unwrap();
    wait_until("Postgres is reached", SOON, async || world.api().get("/readyz").await.status == 200).await;
    the_seat_is_sold_again(&world, campaign, asked).await;
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_seat_whose_commit_is_unknown_and_done_stays_with_its_holder() {
    let fault = owns("commit-unknown");
    let world = World::start().await;
    let PendingSeat { campaign, claim, .. } = with_a_pending_seat(&world).await;
    assert_eq!(claim.await.unwrap(), Some(503));
    world.servers.postgres.thaw();
    fault.fired(1);
    // The statement was on its way: Postgres carries it out when it wakes.
    world.issued(campaign, 2).await;
    let again = wait_for("bob is shown his coupon", SOON, async || {
        Some(world.claim(campaign, "bob").await).filter(|answer| answer.status != 503)
    });
    assert_eq!(again.await.problem(), "already-issued");
    world.pending(campaign, 0).await;
    assert!(!world.processes[0].log().contains("back on sale"), "his seat was given away");
    assert_eq!(world.claim(campaign, "carol").await.problem(), "sold-out");
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_seat_whose_process_died_is_sold_again() {
    let fault = owns("process-killed");
    let mut world = World::start().await;
    let PendingSeat { campaign, asked, claim } = with_a_pending_seat(&world).await;
    world.processes[0].kill();
    fault.fired(1);
    assert_eq!(claim.await.unwrap(), None);
    world.servers.postgres.kill().await;
    world.servers.postgres.start().await.unwrap();
    world.processes[0].start().await;
    the_seat_is_sold_again(&world, campaign, asked).await;
    fault.healed();
    world.close().await;
}
