//! Deployments that meet, in one database or on one NATS: each goes on alone, or is refused in words.

mod database;
mod nats;

use std::collections::BTreeMap;

use async_nats::jetstream;
use coupon_dispatcher::config::Config;
use futures_util::TryStreamExt as _;
use outbox_relay::Shard;
use serde_json::{Value, json};

use crate::support::{Finished, Process, SOON, World, owns, wait_until};

const SHARD: Shard = Shard(0);
const STREAM: &str = "COUPONS-0";
/// The second deployment.
const BLUE: &str = "blue";

impl World {
    /// The deployment as the database has it: its name, then its id.
    async fn owner(&self) -> (String, String) {
        let owner = sqlx::query_as("SELECT name, id::text FROM deployment").fetch_one(&self.pool);
        owner.await.unwrap()
    }
}

/// Everything on a server of NATS that a stranger could have changed: streams and consumers, with the times at which they
/// were created, and how many messages there are.
async fn everything(nats: &async_nats::Client) -> BTreeMap<String, Value> {
    let context = jetstream::new(nats.clone());
    let mut found = BTreeMap::new();
    let streams: Vec<_> = context.streams().try_collect().await.unwrap();
    for info in streams {
        let name = info.config.name.clone();
        let stream = context.get_stream(&name).await.unwrap();
        let consumers: Vec<_> = stream.consumers().try_collect().await.unwrap();
        // The auditor makes and removes consumers that are not durable.
        for consumer in consumers.iter().filter(|consumer| consumer.config.durable_name.is_some()) {
            let made = json!({ "created": consumer.created.to_string(), "config": consumer.config });
            found.insert(format!("{name} {}", consumer.name), made);
        }
        let made = json!({ "created": info.created.to_string(), "config": info.config, "end": info.state.last_sequence });
        found.insert(name, made);
    }
    found
}

fn said(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    for word in words {
        assert!(finished.err.contains(word), "{word}: {}", finished.err);
    }
}

/// An older process holds the locks.
#[tokio::test]
async fn a_process_that_stands_by_says_who_holds_the_lock() {
    let fault = owns("lock-held-for-long");
    let world = World::with_processes(&["", "relay,project"]).await;
    fault.fired(1);
    for class in ["outbox_relay", "projector_projections"] {
        let holder = world.leader(class, SHARD).await;
        let line = format!(
            "the lock is held by process {holder} of Postgres (application coupon, address 127.0.0.1"
        );
        // Whichever it is: the first one may have come before there was a stream.
        let said = || world.processes.iter().map(Process::log).collect::<String>();
        let is_told = |told: &str| told.contains(&line) && told.contains(class);
        wait_until("it says who", SOON, async || said().lines().any(is_told)).await;
        assert_eq!(said().lines().filter(|told| is_told(told)).count(), 1, "{}", said());
    }
    fault.healed();
    world.close().await;
}

#[test]
fn the_name_of_a_deployment_is_checked_with_all_other_variables() {
    let read = |deployment: Option<&str>, shards: &str| {
        Config::read(|name| match name {
            "DATABASE_URL" => Some("postgres://db/coupon".to_owned()),
            "REDIS_URL" => Some("redis://cache".to_owned()),
            "NATS_URL" => Some("nats://bus".to_owned()),
            "SHARDS" => Some(shards.to_owned()),
            "DEPLOYMENT" => deployment.map(str::to_owned),
            _ => None,
        })
    };
    assert_eq!(read(None, "1").unwrap().deployment.as_str(), "coupon");
    assert_eq!(read(Some("blue-2"), "1").unwrap().deployment.as_str(), "blue-2");
    for name in ["", "Blue", "blue_2", &"x".repeat(33)] {
        let problems = read(Some(name), "0").unwrap_err().to_string();
        assert!(problems.contains("SHARDS must be"), "{problems}");
        assert!(
            problems.contains("DEPLOYMENT must be 1 to 32 lower-case letters, digits or hyphens"),
            "{problems}"
        );
    }
}
