//! A process crashes at each of its points, in the midst of everything, and nothing is lost or done twice.

use std::collections::BTreeSet;

use coupon_dispatcher::failpoint;
use coupon_dispatcher::ids::CampaignId;
use outbox_relay::Shard;
use outbox_relay::failpoint::POINTS;
use serde_json::{Value, json};

use super::gate::tell_redis;
use crate::replay::{assert_replayed, sold_out};
use crate::support::{Fault, Http, SOON, World, owns, wait_until};
use crate::tidy::sources;

const USERS: usize = 200;
/// For everybody, and some more.
const QUANTITY: i64 = 210;

/// At which time it crashes there: each user comes by, and each event.
fn time(point: &str) -> u32 {
    match point.split_once('.') {
        Some(("claim", _) | (_, "sent")) => 40,
        _ => 1,
    }
}

/// What a process has to find for it to come to this point.
async fn prepare(world: &World, campaign: CampaignId, point: &str) {
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.pending(campaign, 0).await;
    match point.split_once('.').unwrap() {
        ("loader", _) => tell_redis(world, &["FLUSHALL"]).await,
        ("sweeper", _) => {
            // Nobody has heard of the first; the second has his coupon.
            tell_redis(world, &["SADD", &World::gate(campaign, ":holders"), "nobody"]).await;
            tell_redis(world, &["ZADD", &World::gate(campaign, ":pending"), "1", "nobody", "1", "alice"])
                .await;
        }
        ("projector", "wrote_letter" | "parked") => {
            world
                .execute("ALTER TABLE wallet ADD CONSTRAINT poison CHECK (user_id <> 'mallory') NOT VALID")
                .await;
        }
        _ => {}
    }
}

/// Whoever else is there, until he is answered: somebody claims, and somebody opens a campaign.
async fn others(api: Http, campaign: CampaignId, draft: CampaignId) {
    let api = api.with("idempotency-key", "once");
    let ask = async |path: String, body: Value| {
        let answered = async || api.try_post(&path, &body).await.is_some_and(|answer| answer.status < 500);
        wait_until("he is answered", SOON, answered).await;
    };
    let claim = json!({ "user_id": "mallory" });
    ask(format!("/v1/campaigns/{campaign}/coupons"), claim).await;
    ask(format!("/v1/campaigns/{draft}/open"), json!(null)).await;
}

async fn crash_at(world: &mut World, point: &'static str, fault: &Fault) {
    let campaign = world.open_campaign(json!({ "quantity": QUANTITY })).await;
    let draft = world.create_campaign(json!({})).await;
    prepare(world, campaign, point).await;
    let rush = world.rush(campaign, USERS);
    let process = &mut world.processes[0];
    process.kill();
    process.set("FAILPOINTS", &format!("{point}=crash@{}", time(point)));
    process.launch();
    let others = others(process.http(), campaign, draft);
    let rush = tokio::spawn(rush.run());
    let crashes = async {
        assert!(process.crashed().await.contains(&format!("failpoint {point} fires")));
        fault.fired(1);
        process.set("FAILPOINTS", "");
        process.start().await;
    };
    futures_util::join!(others, crashes);
    world.answered(&rush.await.unwrap()).await;
    if point.starts_with("projector.") && point != "projector.leads" {
        world.passed().await;
    }
    world.execute("ALTER TABLE wallet DROP CONSTRAINT IF EXISTS poison").await;
    for letter in world.dead_letters().await {
        world.letter("redrive", &letter["position"]).await;
    }
    world.balanced().await;
    // No seat is lost.
    for late in 0..QUANTITY - world.coupons(campaign).await {
        assert_eq!(world.claim(campaign, &format!("late-{late}")).await.status, 201);
    }
    fault.healed();
}

/// All points of whom these are.
fn of(whom: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
    POINTS.into_iter().chain(failpoint::POINTS).filter(|point| whom.iter().any(|who| point.starts_with(who)))
}

async fn crash_at_each(points: impl IntoIterator<Item = &'static str>) {
    let mut world = World::start().await;
    for point in points {
        println!("{point}");
        crash_at(&mut world, point, &owns("process-crashes-at-each-point")).await;
    }
    world.close().await;
}

#[tokio::test]
async fn the_service_crashes_at_each_point() {
    crash_at_each(of(&["claim.", "gate.", "writer.", "sweeper.", "loader.", "campaign."])).await;
}

#[tokio::test]
async fn relay_and_projector_crash_at_each_point() {
    crash_at_each(of(&["relay.", "projector."])).await;
}

/// No point is without a name here, and each is somebody's above or below.
#[test]
fn every_point_is_tried() {
    let whom = ["claim.", "gate.", "writer.", "sweeper.", "loader.", "campaign.", "relay.", "projector."];
    let commands = ["replay.", "rebuild.", "dead.", "epoch."];
    let named: BTreeSet<&str> = POINTS.into_iter().chain(failpoint::POINTS).collect();
    for point in &named {
        assert!(whom.iter().chain(&commands).any(|who| point.starts_with(who)), "{point}");
    }
    let sources = [sources("src"), sources("relay/src")].concat();
    let calls = sources.iter().flat_map(|(_, text)| text.split("failpoint::reached(\"").skip(1));
    let reached: BTreeSet<&str> = calls.map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(reached, named);
}

/// The command crashes at this point.
async fn crashes(world: &World, point: &str, command: &[&str], fault: &Fault) {
    println!("{point}");
    let crashed =
        world.coupon_with(command, &[("FAILPOINTS", format!("{point}=crash@{}", time(point)))]).await;
    assert_eq!(crashed.code, None, "{crashed:?}");
    assert!(crashed.err.contains(&format!("failpoint {point} fires")), "{crashed:?}");
    fault.fired(1);
}

#[tokio::test]
async fn a_replay_crashes_at_each_point() {
    let (world, _) = sold_out().await;
    let events = world.all_events().await;
    let events: Vec<_> = events.iter().collect();
    for (number, point) in (0..).zip(of(&["replay."])) {
        let fault = owns("replay-crashes-at-each-point");
        let run = format!("run-{number}");
        crashes(&world, point, &["replay", "--all", "--run", &run], &fault).await;
        let resumed = world.coupon(&["replay", "--resume", &run]).await;
        assert_eq!(resumed.code, Some(0), "{resumed:?}");
        assert_replayed(&run, &world.replayed(&run).await, &events);
        fault.healed();
    }
    world.close().await;
}

#[tokio::test]
async fn a_rebuild_crashes_at_each_point() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": QUANTITY })).await;
    world.answered(&world.rush(campaign, USERS).run().await).await;
    for point in of(&["rebuild."]) {
        let fault = owns("rebuild-crashes-at-each-point");
        world.balanced().await;
        world.execute("UPDATE wallet SET face_value = 1").await;
        crashes(&world, point, &["rebuild", "wallet"], &fault).await;
        let again = world.coupon(&["rebuild", "wallet"]).await;
        assert_eq!(again.code, Some(0), "{again:?}");
        fault.healed();
    }
    world.close().await;
}

#[tokio::test]
async fn a_redrive_crashes_at_each_point() {
    let world = World::start().await;
    for point in of(&["dead."]) {
        let fault = owns("redrive-crashes-at-each-point");
        let campaign = world.open_campaign(json!({})).await;
        prepare(&world, campaign, "projector.parked").await;
        assert_eq!(world.claim(campaign, "mallory").await.status, 201);
        world.passed().await;
        let position = world.dead_letters().await[0]["position"].to_string();
        world.execute("ALTER TABLE wallet DROP CONSTRAINT poison").await;
        let redrive = ["dead", "redrive", "wallet", &position];
        crashes(&world, point, &redrive, &fault).await;
        let again = world.coupon(&redrive).await;
        assert!(again.err.contains("no event is parked"), "{again:?}");
        assert_eq!(world.messages("COUPONS-DEAD").await.len(), 0);
        fault.healed();
    }
    world.close().await;
}

#[tokio::test]
async fn an_epoch_whose_command_crashes_has_begun() {
    let world = World::start().await;
    for point in of(&["epoch."]) {
        let fault = owns("epoch-crashes-at-each-point");
        world.append_events(3).await;
        world.assert_published().await;
        let end = world.end_of_stream(Shard(0)).await;
        world.publish_at(end + 1, "a-stranger", "{}").await;
        world.append_events(1).await;
        world.halted().await;
        crashes(&world, point, &["relay", "epoch", "new", "--yes"], &fault).await;
        wait_until("the relay goes on", SOON, async || world.end_of_stream(Shard(0)).await == end + 2).await;
        fault.healed();
    }
    world.close().await;
}
