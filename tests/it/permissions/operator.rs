//! What an operator is told about a service with the rights that the examples give.

use async_nats::jetstream;
use serde_json::json;

use super::service::run_as;
use super::{NOBODY, add_process, configured, with_coupon};
use crate::support::{SOON, World, newest_nats_server, wait_until};

const BACKLOG: &str = "outbox_backlog_events{shard=\"0\"}";
const DEAD: &str = "COUPONS-DEAD";

/// The API, the relay and the projector each know how far all is, and no server refuses them anything.
#[tokio::test]
async fn every_process_tells_how_far_all_is_and_is_refused_nothing() {
    let (world, _) = with_coupon().await;
    for (index, process) in world.processes.iter().enumerate() {
        for metric in [
            BACKLOG,
            "outbox_head_of_line_age_seconds{shard=\"0\"}",
            "outbox_relay_halted{shard=\"0\"}",
            "outbox_projection_lag_events{projection=\"wallet\",shard=\"0\"}",
            "outbox_parked_events{projection=\"wallet\",shard=\"0\"}",
        ] {
            world.measures(index, metric, 0.0).await;
        }
        let answer = process.http().get("/readyz").await;
        assert_eq!((answer.status, &answer.body["status"]), (200, &json!("ready")), "{answer:?}");
        assert!(answer.body["stalled"].is_null(), "{answer:?}");
        let log = process.log();
        let mut warned = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
        // The relay finds the outbox ahead of it when it creates the stream.
        assert!(warned.all(|line| line.contains("the stream is missing: it is recreated")), "{log}");
    }
    world.close().await;
}

/// The relay creates the stream of dead letters, which the projector may not.
#[tokio::test]
async fn an_event_that_cannot_be_applied_is_parked_or_the_log_and_the_doctor_say_what_is_missing() {
    let (mut world, campaign) = with_coupon().await;
    let context = jetstream::new(world.nats().await);
    let is_there = async || context.get_stream(DEAD).await.is_ok();
    wait_until("the relay creates the stream", SOON, is_there).await;
    world.execute("ALTER TABLE wallet ADD CONSTRAINT poison CHECK (user_id NOT LIKE 'mallory%')").await;
    let parked = async |world: &World| world.coupon(&["dead", "list", "--json"]).await.out;
    assert_eq!(world.claim(campaign, "mallory").await.status, 201);
    wait_until("the event is parked", SOON, async || parked(&world).await.contains("poison")).await;

    context.delete_stream(DEAD).await.unwrap();
    assert_eq!(world.claim(campaign, "mallory-2").await.status, 201);
    world.processes[2].told("stream COUPONS-DEAD: it does not exist and was not created").await;
    world.processes[2].told("let an administrator create it").await;
    let examined = run_as(&world, "reader", "auditor", &["doctor"]).await;
    let line = examined.out.lines().find(|line| line.contains("COUPONS-DEAD: not there"));
    let line = line.unwrap_or_else(|| panic!("{examined:?}"));
    assert!(line.starts_with("warn ") && line.contains("holds up the projections"), "{line}");
    world.processes[1].kill();
    world.processes[1].start().await;
    let both = async || parked(&world).await.matches("poison").count() == 2;
    wait_until("the second event is parked too", SOON, both).await;
    world.execute("ALTER TABLE wallet DROP CONSTRAINT poison").await;
    for letter in world.dead_letters().await {
        world.letter("redrive", &letter["position"]).await;
    }
    world.close().await;
}

/// A login that may not look at `JetStream` is told so, and not that there is none.
#[tokio::test]
async fn the_doctor_tells_what_it_may_not_see_from_what_is_not_there() {
    let mut world = configured(Some(newest_nats_server())).await;
    add_process(&mut world, "api", "api", "api", "api").await;
    add_process(&mut world, "relay", "relay", "relay", NOBODY).await;
    add_process(&mut world, "project", "projector", "projector", "auditor").await;
    world.open_campaign(json!({})).await;
    world.balanced().await;
    let lines = async |user: &str| -> Vec<String> {
        let examined = run_as(&world, "reader", user, &["doctor"]).await;
        examined.out.lines().filter(|line| line.contains(" nats  ")).map(str::to_owned).collect()
    };
    let is_whole = async || {
        let lines = lines("auditor").await;
        lines.len() == 5 && lines.iter().all(|line| line.starts_with("ok "))
    };
    wait_until("the auditor sees all of NATS", SOON, is_whole).await;
    let examined = run_as(&world, "reader", "auditor", &["doctor"]).await;
    let relay = examined.out.lines().find(|line| line.contains("relay of shard 0: "));
    assert!(relay.unwrap().trim_end().ends_with(": active"), "without pg_read_all_stats: {examined:?}");
    let refused = run_as(&world, "reader", NOBODY, &["token", "list"]).await;
    let advice =
        "the login in DATABASE_URL lacks a right that this command needs (docs/how-to/least-privilege.md";
    assert!(refused.code == Some(1) && refused.err.contains(advice), "{refused:?}");
    assert!(refused.err.contains("permission denied for table api_token"), "{refused:?}");
    let lines = lines("replay").await;
    let line = lines.iter().find(|line| line.contains("JetStream: ")).unwrap();
    assert!(line.starts_with("unknown ") && line.contains("Use a login that may publish to"), "{line}");
    assert!(!lines.iter().any(|line| line.contains("not there")), "{lines:#?}");
    world.close().await;
}
