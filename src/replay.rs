//! The replay command: selected events of all shards again, to `replay.<run>.…`.

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use outbox_relay::Shard;
use outbox_relay::replay::{Plan, Selection, replay};
use serde::Serialize;

use crate::app::Connections;
use crate::event::OUTLET;

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

/// A bar on standard error; nothing when that is no terminal.
#[must_use]
pub fn progress_bar(length: i64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {rate} {eta} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            let _ = write!(text, "{:.0}/s", state.per_sec()); // a bar that cannot be drawn matters to nobody
        });
    ProgressBar::new(length.unsigned_abs()).with_style(style)
}
