//! What a process runs to issue coupons and change them: the gate's worker, the loader, the sweeper, the clocks of campaigns and
//! coupons, and a writer for each shard.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use outbox_relay::Shard;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::campaign::clock;
use crate::config::Config;
use crate::connections::Connections;
use crate::gate::loader::Loader;
use crate::gate::sweeper;
use crate::gate::worker::Gate;
use crate::idempotency;
use crate::issue::Issuer;
use crate::issue::metrics::Metrics;
use crate::issue::work::Claims;
use crate::lifecycle::{self, Changes, Lifecycle, expiry};
use crate::writer::WriterWorker;

/// For the workers to finish what they were given, when the last who could ask is gone.
const ISSUING_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The workers behind an [`Issuer`].
#[derive(Debug)]
pub(super) struct Issuing {
    workers: JoinSet<()>,
    /// What keeps campaigns and gates up to date, until it is dropped.
    upkeep: JoinSet<Infallible>,
}

impl Issuing {
    /// Starts the workers of an issuer, and of what changes coupons. `wakes` are notified after each commit in shard 0, 1, ….
    pub(super) fn start(
        config: &Config,
        connections: &Connections,
        wakes: Vec<Arc<Notify>>,
    ) -> ((Arc<Issuer>, Lifecycle), Self) {
        let Connections { database, pool, redis, outage, .. } = connections.clone();
        let metrics = Metrics::default();
        let mut workers = JoinSet::new();
        let (gate, gate_worker) = Gate::new(redis.clone(), metrics.of_gate());
        let (loader, loader_worker) = Loader::new(redis.clone(), pool.clone());
        workers.spawn(gate_worker.run());
        workers.spawn(loader_worker.run());
        let mut upkeep = JoinSet::new();
        upkeep.spawn(clock::run(pool.clone(), metrics.of_clock()));
        upkeep.spawn(sweeper::run(redis, pool.clone(), loader.clone(), metrics.of_sweeper()));
        upkeep.spawn(idempotency::store::run(pool.clone()));
        let (mut writers, mut change_writers, counted) =
            (Vec::new(), Vec::new(), lifecycle::metrics::Metrics::default());
        for (shard, wake) in (0..config.shards).map(Shard).zip(wakes) {
            let worker = WriterWorker::new(shard, config.batch_rows, &database, wake);
            let mut worker = worker.with_outage(&outage);
            writers.push(worker.add(Claims::new(gate.clone(), loader.clone()), metrics.of_writer(shard)));
            change_writers.push(worker.add(Changes::new(), counted.of_writer(shard)));
            workers.spawn(worker.run());
        }
        let lifecycle = Lifecycle::new(pool.clone(), change_writers, counted.clone());
        upkeep.spawn(expiry::run(pool.clone(), lifecycle.clone(), counted.of_expiry()));
        let issuer = Arc::new(Issuer::new(pool, gate, loader, writers, metrics));
        ((issuer, lifecycle), Self { workers, upkeep })
    }

    /// Returns when what keeps campaigns and gates up to date has ended, which it never should.
    pub(super) async fn upkeep_ended(&mut self) {
        if let Some(ended) = self.upkeep.join_next().await {
            tracing::error!(?ended, "the upkeep of campaigns and gates has ended");
        }
    }

    /// Waits until the workers have finished and ended, which they do when the [`Issuer`] is gone.
    pub(super) async fn drain(mut self) {
        self.upkeep.shutdown().await; // safe at any point
        let drained = async { while self.workers.join_next().await.is_some() {} };
        if timeout(ISSUING_DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::warn!(
                "claims in progress are cut off: the sweeper settles their seats after their lease"
            );
        }
    }
}
