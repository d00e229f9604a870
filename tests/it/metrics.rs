//! What is measured is what happened.

use std::time::Duration;

use async_nats::jetstream;
use outbox_relay::Shard;
use serde_json::json;

use crate::outbox::{append_committed, event};
use crate::support::{SOON, World, wait_until};

const SHARD: Shard = Shard(0);
/// For two rounds of the audit that wait for a server.
const ROUNDS: Duration = Duration::from_secs(60);

impl World {
    /// The value of a metric of one process; nothing when there is none.
    pub(crate) async fn measured(&self, process: usize, metric: &str) -> Option<f64> {
        let answer = self.processes[process].http().get("/metrics").await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.header("content-type"),
            Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
        );
        assert!(answer.text.ends_with("# EOF\n"), "{}", answer.text);
        answer.text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ')?.parse().ok())
    }

    pub(crate) async fn measures(&self, process: usize, metric: &str, value: f64) {
        wait_until(&format!("{metric} is {value}"), SOON, async || {
            self.measured(process, metric).await.is_some_and(|measured| (measured - value).abs() < 0.001)
        })
        .await;
    }
}

/// Every answer is counted under its outcome; what one batch carried adds up to the claims.
#[tokio::test]
async fn the_claim_path_is_measured() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 2 })).await;
    let (other, draft) = (world.open_campaign(json!({})).await, world.create_campaign(json!({})).await);
    let answers = async |outcome: &str| {
        let metric = format!("claims_answered_total{{shard=\"0\",outcome=\"{outcome}\"}}");
        world.measured(0, &metric).await
    };
    assert_eq!(answers("issued").await, None, "nothing happened yet");
    assert_eq!(world.claim(other, "erin's friend").await.status, 422, "not counted: it is no claim");
    assert_eq!(world.claim(other, "frank").await.status, 201);
    for (user, status) in [("alice", 201), ("alice", 409), ("bob", 201), ("carol", 410), ("dave", 410)] {
        assert_eq!(world.claim(campaign, user).await.status, status, "{user}");
    }
    wait_until("the gate of the draft is loaded", SOON, async || {
        world.claim(draft, "alice").await.status == 403
    })
    .await;
    for (outcome, count) in [("issued", 3.0), ("already-issued", 1.0), ("sold-out", 2.0), ("not-open", 1.0)] {
        assert_eq!(answers(outcome).await, Some(count), "{outcome}");
    }
    let measured = async |metric: &str| world.measured(0, metric).await.unwrap();
    world.measures(0, "claims_writer_batch_size_sum{shard=\"0\"}", 3.0).await;
    world.measures(0, "claims_writer_commit_seconds_count{shard=\"0\"}", 3.0).await;
    let (asked, calls) =
        (measured("claims_gate_batch_size_sum").await, measured("claims_gate_call_seconds_count").await);
    assert!(asked >= 7.0 && calls >= 7.0, "{asked} claims in {calls} calls");
    assert!(measured("claims_gate_call_seconds_sum").await > 0.0);
    for depth in [
        "claims_gate_queue_depth",
        "claims_writer_queue_depth{shard=\"0\"}",
        "claims_places_taken{shard=\"0\"}",
    ] {
        world.measures(0, depth, 0.0).await;
    }
    // A claim that waits for Postgres holds its place.
    world.servers.postgres.freeze();
    let (waiting, ()) = tokio::join!(world.claim(other, "erin"), async {
        world.measures(0, "claims_places_taken{shard=\"0\"}", 1.0).await;
        world.servers.postgres.thaw();
    });
    assert_eq!(waiting.status, 201, "{waiting:?}");
    world.close().await;
}

#[tokio::test]
async fn relays_and_projections_are_measured() {
    let mut world = World::with_processes(&["api", "relay", "relay", "project"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 300 })).await;
    world.answered(&world.rush(campaign, 400).run().await).await;
    world.balanced().await;
    let head = 302.0;
    let leads = async |relay| world.measured(relay, "outbox_relay_leads{shard=\"0\"}").await;
    let told = async || [leads(1).await, leads(2).await].contains(&Some(1.0));
    wait_until("one of two relays says that it leads", SOON, told).await; // each looks once a second
    for relay in [1, 2] {
        if leads(relay).await == Some(1.0) {
            world.measures(relay, "outbox_published_events_total{shard=\"0\"}", head).await;
            world.measures(relay, "outbox_backlog_events{shard=\"0\"}", 0.0).await;
            world.measures(relay, "outbox_head_of_line_age_seconds{shard=\"0\"}", 0.0).await;
            world.measures(relay, "outbox_relay_halted{shard=\"0\"}", 0.0).await;
            let sampled = world.measured(relay, "outbox_commit_to_stream_seconds_count{shard=\"0\"}").await;
            assert!((1.0..=head).contains(&sampled.unwrap()), "{sampled:?}");
        } else {
            world.measures(relay, "outbox_backlog_events{shard=\"0\"}", 0.0).await; // the servers tell it
            assert_eq!(world.measured(relay, "outbox_published_events_total{shard=\"0\"}").await, None);
        }
    }
    world.measures(3, "outbox_applied_events_total{shard=\"0\"}", head).await;
    world.measures(3, "outbox_commit_to_projected_seconds_count{shard=\"0\"}", head).await;
    for projection in ["wallet", "settlement"] {
        let labels = format!("{{projection=\"{projection}\",shard=\"0\"}}");
        world.measures(3, &format!("outbox_projection_lag_events{labels}"), 0.0).await;
        world.measures(3, &format!("outbox_parked_events{labels}"), 0.0).await;
    }
    world.measures(3, "audit_balanced", 1.0).await;
    world.measures(3, "audit_drift_events", 0.0).await;
    for process in 0..4 {
        world.measures(process, "outbox_sampled", 1.0).await;
        assert_eq!(world.processes[process].http().get("/readyz").await.status, 200);
    }
    world.processes[1].kill();
    world.measures(2, "outbox_relay_leads{shard=\"0\"}", 1.0).await;
    world.close().await;
}

/// Without NATS nobody knows whether it balances.
#[tokio::test]
async fn an_audit_that_cannot_tell_says_nothing() {
    let mut world = World::with_processes(&["relay,project"]).await;
    append_committed(&world, SHARD, &[event("tested")]).await;
    world.balanced().await;
    world.measures(0, "audit_balanced", 1.0).await;
    world.servers.nats.kill().await;
    let silent = async || world.measured(0, "audit_balanced").await.is_none();
    wait_until("nothing is said of the balance", ROUNDS, silent).await;
    world.servers.nats.start().await.unwrap();
    let told = async || world.measured(0, "audit_balanced").await == Some(1.0);
    wait_until("it balances again", ROUNDS, told).await;
    world.close().await;
}

#[tokio::test]
async fn an_outage_shows_and_goes() {
    let mut world = World::with_processes(&["relay,project"]).await;
    append_committed(&world, SHARD, &[event("tested")]).await;
    world.balanced().await;
    world.servers.nats.kill().await;
    append_committed(&world, SHARD, &[event("tested"), event("tested")]).await;
    world.measures(0, "outbox_backlog_events{shard=\"0\"}", 2.0).await;
    let age = "outbox_head_of_line_age_seconds{shard=\"0\"}";
    let first = world.measured(0, age).await.unwrap();
    wait_until("the oldest gets older", SOON, async || world.measured(0, age).await.unwrap() > first).await;
    world.measures(0, "outbox_projection_lag_events{projection=\"wallet\",shard=\"0\"}", 2.0).await;
    let copy = world.copy_of_nats();
    world.servers.nats.start().await.unwrap();
    world.measures(0, "outbox_backlog_events{shard=\"0\"}", 0.0).await;
    world.measures(0, age, 0.0).await;
    world.measures(0, "outbox_published_events_total{shard=\"0\"}", 3.0).await;

    // What was lost and published again is counted as such.
    world.balanced().await;
    world.rewind_nats(&copy).await;
    world.measures(0, "outbox_healed_events_total{shard=\"0\"}", 2.0).await;
    world.balanced().await;
    world.measures(0, "outbox_published_events_total{shard=\"0\"}", 5.0).await;

    // A stranger's message: the relay stops.
    let context = jetstream::new(world.nats().await);
    let stranger = jetstream::message::PublishMessage::build().message_id("a-stranger");
    context.send_publish("coupons.tested.K.0", stranger).await.unwrap().await.unwrap();
    append_committed(&world, SHARD, &[event("tested")]).await;
    world.measures(0, "outbox_relay_halted{shard=\"0\"}", 1.0).await;
    world.measures(0, "outbox_backlog_events{shard=\"0\"}", 1.0).await;
    assert!(world.measured(0, "outbox_refusals_total{shard=\"0\"}").await.unwrap() >= 1.0);
    let begun = world.coupon(&["relay", "epoch", "new", "--yes"]).await;
    assert_eq!(begun.code, Some(0), "{begun:?}");
    world.measures(0, "outbox_backlog_events{shard=\"0\"}", 0.0).await;
    world.close().await;
}
