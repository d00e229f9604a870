//! The wires between a process and its servers are slow, cut, or lose something.

use std::time::Duration;

use coupon_dispatcher::ids::CampaignId;
use outbox_relay::Shard;
use redis::Script;
use serde_json::json;

use super::{QUANTITY, USERS};
use crate::support::{Hop, Http, Line, Proxy, SOON, World, owns, wait_for, wait_until};

const ADMIT: &str = include_str!("../../../lua/admit.lua");
const CONFIRM: &str = include_str!("../../../lua/confirm.lua");

/// A process that reaches one of its servers by a wire.
async fn wired(hop: Hop) -> (World, Proxy) {
    let mut world = World::bare(1).await;
    world.migrate().await;
    let proxy = world.proxy(hop).await;
    world.add_process_through("", &[&proxy]).await;
    (world, proxy)
}

/// He is told to ask again, and when he does, gets one coupon, or is shown the one that he has.
async fn asks_again(world: &World, campaign: CampaignId, user: &str, status: u16) {
    let again = wait_for("the claim is answered", SOON, async || {
        Some(world.claim(campaign, user).await).filter(|answer| answer.status != 503)
    });
    assert_eq!(again.await.status, status);
    assert_eq!(world.coupons(campaign).await, 1);
}

#[tokio::test]
async fn a_commit_whose_reply_is_lost_is_found_by_who_asks_again() {
    let fault = owns("commit-reply-lost");
    let (world, proxy) = wired(Hop::Postgres).await;
    let campaign = world.open_campaign(json!({ "quantity": 1 })).await;
    proxy.lose_reply_to("alice");
    let lost = world.claim(campaign, "alice").await;
    assert_eq!((lost.status, lost.problem()), (503, "storage-unavailable"));
    assert_eq!(lost.header("retry-after"), Some("1"));
    fault.fired(proxy.fired());
    assert_eq!(world.coupons(campaign).await, 1, "it was committed");
    asks_again(&world, campaign, "alice", 409).await;
    fault.healed();
    assert_eq!(world.claim(campaign, "bob").await.problem(), "sold-out");
    world.close().await;
}

/// The client's own wire.
#[tokio::test]
async fn an_answer_that_is_lost_is_given_again() {
    let fault = owns("answer-lost");
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 1 })).await;
    let proxy = Proxy::to(world.processes[0].address).await;
    proxy.lose_reply_to("alice");
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let lost = Http::new(proxy.address).try_post(&path, &json!({ "user_id": "alice" })).await;
    assert!(lost.is_none(), "{lost:?}");
    fault.fired(proxy.fired());
    asks_again(&world, campaign, "alice", 409).await;
    fault.healed();
    world.close().await;
}

/// Neither does it come through, so nothing is committed: his seat is not lost, and nobody else has it.
#[tokio::test]
async fn a_batch_that_never_arrives_leaves_its_seats_to_who_asks_again() {
    let fault = owns("batch-lost");
    let (world, proxy) = wired(Hop::Postgres).await;
    let campaign = world.open_campaign(json!({ "quantity": 1 })).await;
    proxy.set(Line::Swallowed);
    let lost = world.claim(campaign, "alice").await;
    assert_eq!((lost.status, lost.problem()), (503, "storage-unavailable"));
    fault.fired(proxy.fired());
    proxy.set(Line::Clear);
    proxy.cut();
    asks_again(&world, campaign, "alice", 201).await;
    fault.healed();
    assert_eq!(world.claim(campaign, "bob").await.problem(), "sold-out");
    world.close().await;
}

#[tokio::test]
async fn a_seat_whose_reply_is_lost_is_kept_for_who_asks_again() {
    let fault = owns("admission-reply-lost");
    let (world, proxy) = wired(Hop::Redis).await;
    let campaign = world.open_campaign(json!({ "quantity": 1 })).await;
    assert_eq!(world.claim(campaign, "").await.status, 422, "so far nobody was admitted");
    proxy.lose_reply_to(Script::new(ADMIT).get_hash());
    let lost = world.claim(campaign, "alice").await;
    assert_eq!((lost.status, lost.problem()), (503, "gate-unavailable"));
    fault.fired(proxy.fired());
    asks_again(&world, campaign, "alice", 201).await;
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_confirmation_whose_reply_is_lost_is_made_again() {
    let fault = owns("confirmation-reply-lost");
    let (world, proxy) = wired(Hop::Redis).await;
    let campaign = world.open_campaign(json!({ "quantity": 1 })).await;
    proxy.lose_reply_to(Script::new(CONFIRM).get_hash());
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    wait_until("the reply is lost", SOON, async || proxy.fired() > 0).await;
    fault.fired(proxy.fired());
    asks_again(&world, campaign, "alice", 409).await;
    world.pending(campaign, 0).await;
    fault.healed();
    world.close().await;
}

/// The message is stored, and the relay does not learn it: its connection is cut.
#[tokio::test]
async fn a_message_whose_acknowledgement_is_lost_is_stored_once() {
    let fault = owns("acknowledgement-lost");
    let (world, proxy) = wired(Hop::Nats).await;
    let campaign = world.open_campaign(json!({})).await;
    world.assert_published().await;
    for user in ["alice", "bob", "carol"] {
        let before = proxy.fired();
        proxy.lose_reply_to(user);
        assert_eq!(world.claim(campaign, user).await.status, 201);
        wait_until("the reply is lost", SOON, async || proxy.fired() > before).await;
        fault.fired(1);
        world.balanced().await;
        fault.healed();
    }
    world.close().await;
}

/// Effect and position are committed, and the projector does not learn it.
#[tokio::test]
async fn a_projection_whose_commit_is_not_heard_of_is_applied_once() {
    let fault = owns("projection-reply-lost");
    let mut world = World::with_processes(&["api,relay"]).await;
    let proxy = world.proxy(Hop::Postgres).await;
    world.add_process_through("project", &[&proxy]).await;
    let campaign = world.open_campaign(json!({})).await;
    for user in ["alice", "bob", "carol"] {
        let before = proxy.fired();
        proxy.lose_reply_to("COMMIT");
        assert_eq!(world.claim(campaign, user).await.status, 201);
        wait_until("the reply is lost", SOON, async || proxy.fired() > before).await;
        fault.fired(1);
        world.balanced().await;
        fault.healed();
    }
    world.close().await;
}

/// All that a wire can do, and the row that it is.
const LINES: [(Hop, Line, &str); 12] = [
    (Hop::Redis, Line::Slow(Duration::from_secs(2)), "redis-slow"),
    (Hop::Redis, Line::Refused, "redis-refused"),
    (Hop::Redis, Line::Swallowed, "redis-swallowed"),
    (Hop::Redis, Line::HalfOpen, "redis-half-open"),
    (Hop::Postgres, Line::Slow(Duration::from_millis(500)), "postgres-slow"),
    (Hop::Postgres, Line::Refused, "postgres-refused"),
    (Hop::Postgres, Line::Swallowed, "postgres-swallowed"),
    (Hop::Postgres, Line::HalfOpen, "postgres-half-open"),
    (Hop::Nats, Line::Slow(Duration::from_millis(500)), "nats-slow"),
    (Hop::Nats, Line::Refused, "nats-refused"),
    (Hop::Nats, Line::Swallowed, "nats-swallowed"),
    (Hop::Nats, Line::HalfOpen, "nats-half-open"),
];

/// In a rush, on this wire, one after the other; everybody is answered in the end.
async fn survives_every_line(hop: Hop) {
    let lines: Vec<_> = LINES.iter().filter(|(of, ..)| *of == hop).collect();
    let (world, proxy) = wired(hop).await;
    let campaign = world.open_campaign(json!({ "quantity": QUANTITY })).await;
    let rush = tokio::spawn(world.rush(campaign, USERS).run());
    for (number, (_, line, row)) in (1..).zip(&lines) {
        let fault = owns(row);
        let issued = QUANTITY * number / (lines.len() as i64 + 2);
        world.issued(campaign, issued).await;
        let before = proxy.fired();
        proxy.set(*line);
        wait_until("the line is felt", SOON, async || proxy.fired() > before + 1).await;
        proxy.set(Line::Clear);
        proxy.cut();
        fault.fired(proxy.fired() - before);
        world.issued(campaign, issued + 1).await;
        fault.healed();
    }
    world.answered(&rush.await.unwrap()).await;
    assert_eq!(world.coupons(campaign).await, QUANTITY);
    world.close().await;
}

#[tokio::test]
async fn the_wire_to_redis_fails_in_every_way() {
    survives_every_line(Hop::Redis).await;
}

#[tokio::test]
async fn the_wire_to_postgres_fails_in_every_way() {
    survives_every_line(Hop::Postgres).await;
}

#[tokio::test]
async fn the_wire_to_nats_fails_in_every_way() {
    survives_every_line(Hop::Nats).await;
}

/// P9, on a wire that delivers late: whoever asks is refused in time, and nothing is promised twice.
#[tokio::test]
async fn while_redis_is_slow_claims_are_refused_in_time() {
    let fault = owns("redis-slow");
    let (world, proxy) = wired(Hop::Redis).await;
    let campaign = world.open_campaign(json!({ "quantity": 5 })).await;
    let mut best = Duration::MAX;
    for attempt in 0..5 {
        let winner = format!("winner-{attempt}");
        let won = async || world.claim(campaign, &winner).await.status != 503;
        wait_until("claims are taken", SOON, won).await;
        proxy.set(Line::Slow(Duration::from_secs(2)));
        let refused = world.claim(campaign, &format!("late-{attempt}")).await;
        proxy.set(Line::Clear);
        fault.fired(proxy.fired());
        assert_eq!((refused.status, refused.problem()), (503, "gate-unavailable"));
        assert_eq!(refused.header("retry-after"), Some("1"));
        best = best.min(refused.took);
        if best < super::gate::REFUSED_WITHIN {
            break;
        }
    }
    assert!(best < super::gate::REFUSED_WITHIN, "refused within {best:?} only");
    let won = async || world.claim(campaign, "again").await.status != 503;
    wait_until("claims are taken", SOON, won).await;
    fault.healed();
    assert!(world.coupons(campaign).await <= 5);
    world.balanced().await;
    assert_eq!(world.head(Shard(0)).await, world.end_of_stream(Shard(0)).await);
    world.close().await;
}
