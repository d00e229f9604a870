//! The replay command: selected events of all shards again, to `replay.<run>.…`; and what has
//! become of earlier runs.

mod args;
mod report;

use anyhow::Context as _;
use outbox_relay::Shard;
use outbox_relay::replay::{Outcome, ReplayError, Replayer, Run, RunId, at_work, cancel, stored};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::app::{Connections, Patience};
use crate::config::Config;
use crate::event::OUTLET;
use crate::progress::{progress_bar, say};

pub use args::ReplayArgs;
use report::{LIST_HEADER, ListedRun, Plan, Report};

/// Why a run is not done, though nothing failed.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    #[error("run {0} was stopped, `coupon replay --resume {0}` goes on")]
    Stopped(RunId),
    #[error("run {0} was cancelled")]
    Cancelled(RunId),
    #[error("stopped before anything was published")]
    NotBegun,
}

/// The exit code of an error: 3 stopped or cancelled, 4 another replay is at work; nothing for
/// all others.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> Option<u8> {
    match error.downcast_ref() {
        Some(ReplayError::Busy { .. }) => Some(4),
        _ => error.is::<Unfinished>().then_some(3),
    }
}

/// Does what it is told, until it is done or `stop`.
///
/// # Errors
/// When it cannot be done, or is [`Unfinished`]. What was published stays.
pub async fn run(args: ReplayArgs, config: &Config, stop: &CancellationToken) -> anyhow::Result<()> {
    let begun = tokio::select! {
        begun = begin(&args, config) => begun?,
        () = stop.cancelled() => return Err(Unfinished::NotBegun.into()),
    };
    let Some((connections, replayer)) = begun else { return Ok(()) };
    let run = replayer.run().id.clone();
    let published = publish(&args, &connections, replayer, stop).await;
    match published
        .with_context(|| format!("run {run} ended early, `coupon replay --resume {run}` goes on"))?
    {
        Outcome::Done => Ok(()),
        Outcome::Stopped => Err(Unfinished::Stopped(run).into()),
        Outcome::Cancelled => Err(Unfinished::Cancelled(run).into()),
    }
}

/// All that is done before something is published; nothing when nothing is to be.
async fn begin(args: &ReplayArgs, config: &Config) -> anyhow::Result<Option<(Connections, Replayer)>> {
    let connections = Connections::open(config, Patience::None).await?;
    if args.list {
        list(args, &connections).await?;
    } else if let Some(run) = &args.cancel {
        cancel_run(args, &connections, run).await?;
    } else if args.dry_run {
        dry_run(args, &connections, config.shards).await?;
    } else {
        let replayer = replayer(args, &connections, config.shards).await?;
        return Ok(Some((connections, replayer)));
    }
    Ok(None)
}

/// Of a run that goes on, or of a new one.
async fn replayer(args: &ReplayArgs, connections: &Connections, shards: i16) -> anyhow::Result<Replayer> {
    let Connections { database, nats, .. } = connections.clone();
    if let Some(run) = &args.resume {
        let mut replayer = Replayer::resume(&database, nats, OUTLET, run).await?;
        if args.rate.is_some() {
            replayer.set_rate(args.rate());
        }
        return Ok(replayer);
    }
    let run = args.run.clone().unwrap_or_else(RunId::generate);
    Ok(Replayer::start(&database, nats, OUTLET, shards, &run, &args.selection(), args.rate()).await?)
}

/// Prints the plan, publishes, and says what has become of it.
async fn publish(
    args: &ReplayArgs,
    connections: &Connections,
    replayer: Replayer,
    stop: &CancellationToken,
) -> anyhow::Result<Outcome> {
    let run = replayer.run().clone();
    let plan = Plan::new(run.id.clone(), run.rate, replayer.plans().to_vec());
    // The only JSON on standard output is the result.
    if args.json {
        eprintln!("{plan}");
    } else {
        say(&plan)?;
    }
    let bar = progress_bar(plan.events);
    let outcome = replayer.publish(stop, || bar.inc(1)).await;
    bar.finish_and_clear();
    let outcome = outcome?;
    let stored = stored(&connections.nats, &OUTLET, &run.id).await?;
    report(args, plan, Some(outcome), stored)?;
    Ok(outcome)
}

/// Prints the plan, and touches nothing.
async fn dry_run(args: &ReplayArgs, connections: &Connections, shards: i16) -> anyhow::Result<()> {
    use sqlx::ConnectOptions as _;
    let mut connection = connections.database.connect().await?; // the pool's statements are cut off
    let (selection, mut plans) = (args.selection(), Vec::new());
    for shard in (0..shards).map(Shard) {
        plans.push(selection.plan(&mut connection, shard).await?);
    }
    let run = args.run.clone().unwrap_or_else(RunId::generate);
    let plan = Plan::new(run, args.rate(), plans);
    if !args.json {
        say(&plan)?;
    }
    report(args, plan, None, 0)
}

fn report(args: &ReplayArgs, plan: Plan, outcome: Option<Outcome>, stored: u64) -> anyhow::Result<()> {
    let report = Report::new(plan, outcome, stored);
    if args.json {
        say(serde_json::to_string(&report)?)?;
    } else if outcome.is_none() {
        say("dry run: nothing is published")?;
    } else {
        say(&report)?;
    }
    Ok(())
}

async fn cancel_run(args: &ReplayArgs, connections: &Connections, run: &RunId) -> anyhow::Result<()> {
    let mut connection = connections.pool.acquire().await?;
    let removed = cancel(&mut connection, &connections.nats, &OUTLET, run).await?;
    if args.json {
        say(json!({ "run": run, "state": "cancelled", "removed": removed }))?;
    } else {
        say(format_args!(
            "run {run} is cancelled, {removed} messages are removed from {}",
            OUTLET.replay_stream()
        ))?;
    }
    Ok(())
}

async fn list(args: &ReplayArgs, connections: &Connections) -> anyhow::Result<()> {
    let mut connection = connections.pool.acquire().await?;
    let at_work = at_work(&mut connection).await?;
    let mut listed = Vec::new();
    for run in Run::list(&mut connection).await? {
        let stored = stored(&connections.nats, &OUTLET, &run.id).await?;
        listed.push(ListedRun::new(run, at_work.as_ref(), stored));
    }
    if args.json {
        say(json!({ "runs": listed }))?;
        return Ok(());
    }
    say(LIST_HEADER)?;
    for run in listed {
        say(&run)?;
    }
    Ok(())
}
