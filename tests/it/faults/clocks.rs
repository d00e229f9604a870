//! Clocks that are wrong. Redis judges when a seat can be had, Postgres whether a coupon can; no other clock counts.

use coupon_dispatcher::ids::CampaignId;
use serde_json::json;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::redis::{ask, oversells_nothing};
use super::{QUANTITY, survives};
use crate::support::{Answer, Clock, Process, SOON, World, in_seconds, owns, wait_until};

/// A campaign that opens so many seconds from now.
async fn opening_in(world: &World, seconds: i64) -> CampaignId {
    let times = json!({ "opens_at": in_seconds(seconds), "closes_at": in_seconds(seconds + 3_600) });
    let campaign = world.create_campaign(times).await;
    let opened = world.api().post(&format!("/v1/campaigns/{campaign}/open"), &json!(null)).await;
    assert_eq!(opened.status, 200, "{opened:?}");
    campaign
}

async fn claim_at(process: &Process, campaign: CampaignId) -> Answer {
    let claim = json!({ "user_id": format!("of-{}", process.name) });
    process.http().post(&format!("/v1/campaigns/{campaign}/coupons"), &claim).await
}

/// How far the clock of a process is ahead, by the last line of its log.
fn hours_ahead(process: &Process) -> i64 {
    let log = process.log();
    let time =
        log.lines().rev().find_map(|line| OffsetDateTime::parse(line.split(' ').next()?, &Rfc3339).ok());
    // Half an hour more, so that a line may be some moments old.
    (time.expect("a line tells the time") - OffsetDateTime::now_utc() + Duration::minutes(30)).whole_hours()
}

#[tokio::test]
async fn a_process_whose_clock_is_wrong_sells_when_the_others_do() {
    let fault = owns("process-clock-wrong");
    let mut world = World::bare(1).await;
    world.migrate().await;
    let clocks = ["ahead", "behind"].map(|name| Clock::new(world.folder(), name));
    clocks[0].set(Duration::days(3));
    clocks[1].set(Duration::hours(-2));
    for clock in &clocks {
        world.add_process_with(clock).await;
    }
    world.add_process("").await;
    let hours: Vec<i64> = world.processes.iter().map(hours_ahead).collect();
    assert_eq!(hours, [72, -1, 0]);
    let (early, open) = (opening_in(&world, 3_000).await, opening_in(&world, -60).await);
    for process in &world.processes {
        let answer = claim_at(process, early).await;
        assert_eq!(answer.problem(), "not-open", "{answer:?}");
        let answer = claim_at(process, open).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    survives(&mut world, &fault, async |world: &mut World, campaign| {
        for ahead in [Duration::hours(-1), Duration::hours(1), Duration::days(-3)] {
            let issued = world.coupons(campaign).await;
            clocks[0].set(ahead);
            world.issued(campaign, (issued + QUANTITY / 8).min(QUANTITY)).await;
        }
    })
    .await;
    world.close().await;
}

/// A world whose Redis has a clock of its own.
async fn with_a_clock_for_redis() -> (World, Clock) {
    let mut world = World::bare(1).await;
    let clock = world.clock_of_redis().await;
    world.migrate().await;
    for roles in ["", "api"] {
        world.add_process(roles).await;
    }
    (world, clock)
}

async fn jumps(world: &World, clock: &Clock, ahead: Duration) {
    clock.set(ahead);
    let time: [String; 2] = ask(world, "TIME").await.unwrap();
    let apart =
        OffsetDateTime::from_unix_timestamp(time[0].parse().unwrap()).unwrap() - OffsetDateTime::now_utc();
    assert!((apart - ahead).abs() < Duration::minutes(1), "{apart} ahead, and not {ahead}");
}

#[tokio::test]
async fn seats_are_back_on_sale_though_the_clock_of_redis_is_set_back() {
    let (world, clock) = with_a_clock_for_redis().await;
    oversells_nothing(world, &owns("redis-clock-back"), async |world, campaign| {
        // Takes seats with it, with luck; this one surely.
        world.processes[1].kill();
        let nobodys = format!(
            "ZADD {} {}999 nobody",
            World::gate(campaign, ":pending"),
            OffsetDateTime::now_utc().unix_timestamp()
        );
        ask::<i64>(world, &nobodys).await.unwrap();
        ask::<i64>(world, &format!("SADD {} nobody", World::gate(campaign, ":holders"))).await.unwrap();
        jumps(world, &clock, Duration::minutes(-30)).await;
        world.processes[1].start().await;
    })
    .await;
}

#[tokio::test]
async fn a_gate_is_loaded_though_its_loader_died_before_the_clock_of_redis_was_set_back() {
    let fault = owns("redis-clock-back-loader");
    let (world, clock) = with_a_clock_for_redis().await;
    let campaign = world.open_campaign(json!({})).await;
    let gate = World::gate(campaign, "");
    jumps(&world, &clock, Duration::minutes(30)).await;
    ask::<redis::Value>(&world, &format!("SET {gate}:loader of-the-dead PX 5000")).await.unwrap();
    ask::<i64>(&world, &format!("DEL {gate}")).await.unwrap();
    jumps(&world, &clock, Duration::ZERO).await;
    fault.fired(1);
    wait_until("claims are taken", SOON, async || world.claim(campaign, "alice").await.status == 201).await;
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_clock_of_redis_that_jumps_ahead_sells_nothing_twice_and_nothing_early() {
    let (world, clock) = with_a_clock_for_redis().await;
    let early = opening_in(&world, 1_200).await;
    oversells_nothing(world, &owns("redis-clock-ahead"), async |world, _| {
        // Whatever is pending is past its deadline now.
        jumps(world, &clock, Duration::minutes(30)).await;
        let answer = world.claim(early, "early").await;
        assert_eq!(answer.problem(), "not-open", "{answer:?}");
        world.pending(early, 0).await;
        jumps(world, &clock, Duration::ZERO).await;
    })
    .await;
}
