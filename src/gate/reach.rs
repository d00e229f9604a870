//! Whether the gate can be reached, and which nodes of a Redis Cluster give no seats.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::RedisError;
use tokio::time::{MissedTickBehavior, interval};

use super::redis::Seats;
use super::slots::{Node, SLOTS};

/// What is known of Redis, at the latest attempt.
#[derive(Debug, Default)]
pub(super) struct Reach {
    reachable: AtomicBool,
    /// Nodes of a Cluster that give no seats, each with the reason.
    away: Mutex<BTreeMap<String, String>>,
    /// Slots of a Cluster that no node serves.
    unserved: AtomicUsize,
}

impl Reach {
    /// Whether Redis gives seats; of a Cluster, at least one node.
    pub(super) fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::Relaxed);
    }

    /// The nodes of a Cluster that give no seats, and the slots that none serves, one sentence each.
    pub(super) fn away(&self) -> Vec<String> {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let sentence = |(node, why): (&String, &String)| {
            format!("Redis node {node}: no seats, so claims of its campaigns are refused ({why})")
        };
        let unserved = Some(self.unserved.load(Ordering::Relaxed)).filter(|slots| *slots > 0);
        let unserved = unserved.map(|slots| {
            format!("Redis Cluster: no node serves {slots} of {SLOTS} slots, so claims of their campaigns are refused")
        });
        away.iter().map(sentence).chain(unserved).collect()
    }

    /// Asks the nodes of a Cluster for as long as this is polled; sleeps if there is no Cluster.
    pub(super) async fn watch(&self, seats: Seats, every: Duration) -> Infallible {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(found) = seats.nodes().await else { return std::future::pending().await };
            self.found(found);
            self.found_unserved(seats.unserved());
        }
    }

    /// Notes what the nodes have answered, and logs what has changed.
    fn found(&self, found: Vec<(Node, Result<(), RedisError>)>) {
        self.set(found.iter().any(|(_, found)| found.is_ok()));
        let now: BTreeMap<String, String> = found
            .into_iter()
            .filter_map(|(node, found)| Some((node.to_string(), found.err()?.to_string())))
            .collect();
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        for (node, why) in now.iter().filter(|(node, _)| !away.contains_key(*node)) {
            tracing::warn!("Redis node {node} gives no seats, so claims of its campaigns are refused: {why}");
        }
        for node in away.keys().filter(|node| !now.contains_key(*node)) {
            tracing::info!("Redis node {node} gives seats again, or others have its campaigns");
        }
        *away = now;
    }

    fn found_unserved(&self, slots: usize) {
        let before = self.unserved.swap(slots, Ordering::Relaxed);
        if slots > 0 && before != slots {
            tracing::warn!(
                "no node of the Redis Cluster serves {slots} of {SLOTS} slots: claims of their campaigns are refused"
            );
        } else if slots == 0 && before > 0 {
            tracing::info!("every slot of the Redis Cluster is served again");
        }
    }
}
