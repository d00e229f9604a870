//! `coupon status`: what an operator sees in one look, also while something is away.

use outbox_relay::Shard;
use serde_json::{Value, json};

use super::json_of;
use crate::support::{SOON, World, wait_until};

async fn status(world: &World) -> Value {
    json_of(&world.coupon(&["status", "--json"]).await)
}

#[tokio::test]
async fn campaigns_backlog_leaders_halts_and_parked_events_are_seen_in_one_look() {
    let mut world = World::with_processes(&["api", "relay", "project"]).await;
    let draft = world.create_campaign(json!({ "name": "A draft" })).await.to_string();
    let campaign = world.open_campaign(json!({ "name": "Friday", "quantity": 5 })).await;
    for user in ["alice", "bob"] {
        assert_eq!(world.claim(campaign, user).await.status, 201);
    }
    world.balanced().await;
    let looked = status(&world).await;
    let shown = &looked["campaigns"][0];
    assert_eq!(looked["campaigns"].as_array().unwrap().len(), 1, "{looked}");
    assert_eq!((&shown["id"], &shown["state"]), (&json!(campaign), &json!("open")));
    assert_eq!([&shown["quantity"], &shown["issued"], &shown["left"]], [5, 2, 3]);
    assert_eq!(shown["issued_per_s"], 0.0);
    let shard = &looked["shards"][0];
    assert_eq!((&shard["head"], &shard["backlog"], &shard["halted"]), (&json!(3), &json!(0), &Value::Null));
    assert!(shard["leader"].as_str().unwrap().starts_with("127.0.0.1, process "), "{looked}");
    let parked = |looked: &Value| looked["projections"][0]["parked"].clone();
    assert_eq!((&looked["projections"][0]["lag"], parked(&looked)), (&json!(0), json!(0)));

    // For people, the same in three tables.
    let drawn = world.coupon(&["status"]).await;
    assert_eq!((drawn.code, drawn.out.split("\n\n").count()), (Some(0), 4), "{drawn:?}");
    for word in ["Friday", "ISSUED PER S", "BACKLOG", "process", "wallet", "settlement", "PARKED"] {
        assert!(drawn.out.contains(word), "{word}: {drawn:?}");
    }
    assert!(!drawn.out.contains(&draft) && !drawn.out.contains('\u{1b}'), "{drawn:?}");

    // On a night on which the API and the relay are away, it tells what waits, and that nobody leads.
    world.processes[1].kill();
    assert_eq!(world.claim(campaign, "carol").await.status, 201);
    world.processes[0].kill();
    let nobody = async || status(&world).await["shards"][0]["leader"].is_null();
    wait_until("nobody leads", SOON, nobody).await;
    let looked = status(&world).await;
    assert_eq!((&looked["campaigns"][0]["left"], &looked["shards"][0]["backlog"]), (&json!(2), &json!(1)));
    assert!(looked["shards"][0]["oldest_age_s"].as_f64().unwrap() > 0.0, "{looked}");
    // Without NATS it is not known what the stream has.
    world.servers.nats.kill().await;
    let looked = status(&world).await;
    assert_eq!((&looked["shards"][0]["head"], &looked["shards"][0]["backlog"]), (&json!(4), &Value::Null));
    world.servers.nats.start().await.unwrap();
    for process in [0, 1] {
        world.processes[process].start().await;
    }
    world.balanced().await;
    world.servers.postgres.kill().await;
    let failed = world.coupon(&["status"]).await;
    assert!(failed.code == Some(1) && failed.err.contains("Postgres at"), "{failed:?}");
    world.servers.postgres.start().await.unwrap();
    world.close().await;
}

#[tokio::test]
async fn a_halt_and_a_parked_event_are_seen() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    world.execute("ALTER TABLE wallet ADD CONSTRAINT poison CHECK (user_id <> 'mallory')").await;
    world.claim(campaign, "mallory").await;
    let parked = async || {
        let looked = status(&world).await;
        looked["projections"].as_array().unwrap().iter().any(|one| one["parked"] == 1)
    };
    wait_until("the parked event is seen", SOON, parked).await;
    world.execute("ALTER TABLE wallet DROP CONSTRAINT poison").await;
    world.letter("redrive", &world.dead_letters().await[0]["position"]).await;

    let end = world.end_of_stream(Shard(0)).await;
    world.publish_at(end + 1, "a-stranger", "{}").await;
    world.append_events(1).await;
    let reason = world.halted().await;
    let halted = status(&world).await["shards"][0]["halted"].clone();
    assert!(halted.as_str().is_some_and(|halted| reason.starts_with(halted)), "{reason}: {halted}");
    world.begin_epoch().await;
    wait_until("the relay goes on", SOON, async || status(&world).await["shards"][0]["halted"].is_null())
        .await;
    world.close().await;
}

#[tokio::test]
async fn a_watch_prints_a_line_for_each_look_and_redraws_a_terminal() {
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({ "name": "Friday" })).await;
    let mut running = world.start_coupon(&["status", "--watch"]);
    running.says("1 campaigns, 0 issued").await;
    world.claim(campaign, "alice").await;
    running.says("1 campaigns, 1 issued").await;
    // A look that fails ends nothing.
    world.servers.postgres.kill().await;
    world.servers.postgres.start().await.unwrap();
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let claimed =
        async || [201, 409].contains(&world.api().post(&path, &json!({ "user_id": "bob" })).await.status);
    wait_until("claims are served", SOON, claimed).await;
    running.says("2 issued").await;
    running.signal(rustix::process::Signal::INT);
    let finished = running.finished().await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.out.lines().count() >= 3 && !finished.out.contains('\u{1b}'), "{finished:?}");
    for line in finished.out.lines() {
        assert!(line.contains("of 1 shards led") && line.contains("parked"), "{line}");
    }

    let mut terminal = world.at_terminal(&["status", "--watch"]);
    for _ in 0..2 {
        terminal.shows("\u{1b}[H\u{1b}[2J").await;
        terminal.shows("settlement").await;
        terminal.forget();
    }
    terminal.interrupt();
    assert_eq!(terminal.finished().await.0, Some(0));
    let mut running = world.start_coupon(&["status", "--watch", "--json"]);
    running.says("\n").await;
    let line = running.heard();
    let looked: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!(looked["campaigns"][0]["issued"], 2);
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.finished().await.code, Some(0));
    world.close().await;
}
