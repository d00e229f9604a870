//! The replay command: selected events of all shards again, to `replay.<run>.…`.

use outbox_relay::Shard;
use outbox_relay::replay::{Plan, Selection, replay};
use serde::Serialize;

use crate::connections::Connections;
use crate::event::OUTLET;
use crate::progress::progress_bar;

/// What a replay does, or would do.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub run: String,
    /// Where a subscriber finds the events.
    pub subject: String,
    pub stream: String,
    pub dry_run: bool,
    pub events: i64,
    pub bytes: i64,
    pub shards: Vec<ShardPlan>,
}

/// The part of one shard.
#[derive(Debug, Serialize)]
pub struct ShardPlan {
    pub shard: Shard,
    pub events: i64,
    pub first: Option<i64>,
    pub last: Option<i64>,
}

/// Plans a run, and unless it is a dry run, publishes it.
///
/// # Errors
/// When a server cannot be asked. What was published stays; the same run can be started again.
pub async fn run(
    connections: &Connections,
    shards: i16,
    run: &str,
    selection: &Selection,
    dry_run: bool,
) -> anyhow::Result<Summary> {
    let mut connection = connections.pool.acquire().await?;
    let mut plans: Vec<(Shard, Plan)> = Vec::new();
    for shard in (0..shards).map(Shard) {
        plans.push((shard, selection.plan(&mut connection, shard).await?));
    }
    let events = plans.iter().map(|(_, plan)| plan.events).sum();
    if !dry_run {
        let bar = progress_bar(events);
        for (shard, _) in &plans {
            let progress = |published| bar.inc(published);
            replay(&mut connection, &connections.nats, &OUTLET, *shard, run, selection, progress).await?;
        }
        bar.finish_and_clear();
    }
    Ok(Summary {
        run: run.to_owned(),
        subject: format!("replay.{run}.>"),
        stream: OUTLET.replay_stream(),
        dry_run,
        events,
        bytes: plans.iter().map(|(_, plan)| plan.bytes).sum(),
        shards: plans
            .into_iter()
            .map(|(shard, Plan { events, first, last, .. })| ShardPlan { shard, events, first, last })
            .collect(),
    })
}
