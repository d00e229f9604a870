//! A subscriber of core NATS sees the reply subject of each message, and may answer there: that is no acknowledgement.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt as _;
use outbox_relay::Shard;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::{SOON, World, owns, wait_until};

/// What subscribers answer, one after the other: texts, other objects, and what only looks like an acknowledgement.
const ANSWERS: [&str; 9] = [
    "",
    "thank you",
    "{}",
    "[7]",
    r#"{"seq":1}"#,
    r#"{"error":"I cannot"}"#,
    r#"{"error":{"message":"I cannot"}}"#,
    r#"{"stream":"ORDERS","seq":1}"#,
    r#"{"stream":"ORDERS","error":{"err_code":10071,"description":"wrong last sequence: 1"}}"#,
];

/// Answers each message on some subjects, twice, until it is dropped.
struct Subscriber {
    answered: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Subscriber {
    async fn to(world: &World, subjects: &'static str) -> Self {
        let nats = world.nats().await;
        let mut messages = nats.subscribe(subjects).await.unwrap();
        nats.flush().await.unwrap();
        let answered = Arc::new(AtomicUsize::new(0));
        let count = answered.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let Some(reply) = message.reply else { continue };
                let number = count.fetch_add(1, Ordering::Relaxed);
                for answer in [ANSWERS[number % ANSWERS.len()], ANSWERS[(number + 1) % ANSWERS.len()]] {
                    nats.publish(reply.clone(), answer.into()).await.unwrap();
                }
            }
        });
        Self { answered, task }
    }

    /// How many messages it has answered.
    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn answers_of_subscribers_hold_up_no_relay_and_no_replay() {
    let fault = owns("subscriber-answers");
    let world = World::with_processes(&["api", "project", "relay"]).await;
    let events = Subscriber::to(&world, "coupons.>").await;
    let campaign = world.open_campaign(json!({ "quantity": 500 })).await;
    let ready = async || {
        let answer = world.processes[2].http().try_get("/readyz").await;
        answer.is_some_and(|answer| answer.body["status"] == "ready")
    };
    wait_until("the relay's process has started", SOON, ready).await;
    let rush = tokio::spawn(world.rush(campaign, 600).run());
    while !rush.is_finished() {
        assert!(ready().await, "{}", world.processes[2].log());
    }
    world.answered(&rush.await.unwrap()).await;
    world.assert_published().await;
    assert!(ready().await);
    let log = world.processes[2].log();
    assert!(!log.contains("starts over"), "{log}");

    let replayed = Subscriber::to(&world, "replay.>").await;
    let finished = world.coupon(&["replay", "--type", "issued", "--run", "answered", "--json"]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(!finished.err.contains("starts over"), "{finished:?}");
    for (subscriber, count) in [(events, 502), (replayed, 500)] {
        wait_until("each is answered", SOON, async || subscriber.answered() == count).await;
        fault.fired(count);
    }
    assert_eq!(world.head(Shard(0)).await, 502, "opened, 500 issued, sold out");
    fault.healed();
    world.close().await;
}

/// A letter is published again and again until the stream of dead letters acknowledges it.
#[tokio::test]
async fn answers_of_subscribers_hold_up_no_letter() {
    let fault = owns("subscriber-answers");
    let world = World::start().await;
    let letters = Subscriber::to(&world, "dead.>").await;
    let campaign = world.open_campaign(json!({})).await;
    world.execute("ALTER TABLE wallet ADD CONSTRAINT no_mallory CHECK (user_id <> 'mallory')").await;
    world.claim(campaign, "mallory").await;
    world.claim(campaign, "alice").await;
    let parked = async || world.processes[0].log().contains("an event is parked");
    wait_until("the event is parked", SOON, parked).await;
    assert!(!world.processes[0].log().contains("projector starts over"), "{}", world.processes[0].log());
    wait_until("the letter is answered", SOON, async || letters.answered() == 1).await;
    fault.fired(1);
    world.execute("ALTER TABLE wallet DROP CONSTRAINT no_mallory").await;
    let listed = world.coupon(&["dead", "list", "--json"]).await;
    let parked: serde_json::Value = serde_json::from_str(&listed.out).unwrap();
    let position = parked["items"][0]["position"].to_string();
    let redriven = world.coupon(&["dead", "redrive", "wallet", &position]).await;
    assert_eq!(redriven.code, Some(0), "{redriven:?}");
    fault.healed();
    world.close().await;
}
