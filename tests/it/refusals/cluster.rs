//! Refusals from memory of a campaign whose gate is in a Redis Cluster.

use std::sync::atomic::{AtomicBool, Ordering};

use coupon_dispatcher::ids::CampaignId;
use futures_util::future::join_all;

use super::Winner;
use crate::support::{SOON, World, wait_until};

/// Winners and losers claim while something happens to the gate, and once more after it. A loser is told that all
/// coupons are issued, a winner is shown their coupon, or the claim gets a 503; nothing else.
async fn no_answer_is_wrong(
    world: &World,
    campaign: CampaignId,
    winners: &[Winner],
    happening: impl Future<Output = ()>,
) {
    let is_over = AtomicBool::new(false);
    let happening = async {
        happening.await;
        is_over.store(true, Ordering::Relaxed);
    };
    let claims = async {
        for round in 0.. {
            let is_last = is_over.load(Ordering::Relaxed);
            let winner = &winners[round % winners.len()];
            let shown = world.claim_at(0, campaign, &winner.user).await;
            assert!(winner.is_shown(&shown) || shown.status == 503, "{shown:?}");
            for refused in join_all((0..4).map(|_| world.newcomer(0, campaign))).await {
                assert!(refused.problem() == "sold-out" || refused.status == 503, "{refused:?}");
            }
            if is_last {
                break;
            }
        }
    };
    futures_util::join!(happening, claims);
    // A refusal that is not from memory is the gate's.
    let served = async || {
        let before = world.answered_from_memory(0).await;
        let refused = world.newcomer(0, campaign).await.problem() == "sold-out";
        refused && world.answered_from_memory(0).await == before
    };
    wait_until("the gate is back", SOON, served).await;
    world.remembers(0, campaign, "sold-out").await;
    world.are_shown_their_coupons(0, campaign, winners).await;
}

#[tokio::test]
async fn a_slot_that_moves_and_a_primary_that_is_killed_make_no_answer_wrong() {
    let (world, mut cluster) = World::on_redis_cluster().await;
    let (campaign, winners) = world.sold_out().await;
    world.remembers(0, campaign, "sold-out").await;
    world.are_shown_their_coupons(0, campaign, &winners).await;

    let first = cluster.owner(campaign, 0).await;
    let second = (first + 1) % 3;
    no_answer_is_wrong(&world, campaign, &winners, cluster.move_slot(campaign, first, second)).await;

    let mut victim = cluster.take(second);
    no_answer_is_wrong(&world, campaign, &winners, async {
        victim.kill();
        let taken_over = async || cluster.owner(campaign, first).await != second;
        wait_until("a replica has taken over", SOON, taken_over).await;
    })
    .await;
    world.alter(campaign, "quantity = quantity + 10").await;
    world.gives_seats(0, campaign).await;
    world.close().await;
}
