//! `coupon replay`: selected events of all shards, published again to `replay.<run>.…`; and what became of earlier
//! runs.

mod args;
mod report;

use std::ops::ControlFlow;

use anyhow::Context as _;
use outbox_relay::Shard;
use outbox_relay::in_time::InTime as _;
use outbox_relay::replay::{ReplayError, Replayer, Run, RunEnd, RunId, RunRequest, at_work, cancel, stored};
use serde_json::{Value, json};
use sqlx::ConnectOptions as _;
use tokio_util::sync::CancellationToken;

use super::ended::Ended;
use super::{print, stop};
use crate::campaign::store;
use crate::config::Config;
use crate::connections::{Connections, Patience};
use crate::event::OUTLET;
use crate::progress::progress_bar;

pub use args::ReplayArgs;
use report::{LIST_COLUMNS, ListedRun, Plan, Report};

/// A run to publish, unless the command has ended before.
type Begun = ControlFlow<Ended, (Connections, Replayer)>;

/// Does what the arguments say, until it is done or a signal stops it. What was published stays.
///
/// # Errors
/// When a server cannot be asked, or the run cannot begin or continue.
pub(super) async fn run(mut args: ReplayArgs, config: &Config) -> anyhow::Result<Ended> {
    if let Some(problem) = args.problem() {
        return Ok(Ended::WrongUsage(problem.to_owned()));
    }
    if args.is_unselected() {
        args.run.get_or_insert_with(RunId::generate); // that of the plan before the question
    }
    // Before signals are listened to, so that Ctrl-C ends a question.
    if let Some(ended) = unconfirmed(&args, config).await? {
        return Ok(ended);
    }
    let stop = stop::on_signal()?;
    let begun = tokio::select! {
        begun = begin(&args, config) => begun?,
        () = stop.cancelled() => return Ok(Ended::Stopped(None)),
    };
    let (connections, replayer) = match begun {
        Begun::Continue(begun) => begun,
        Begun::Break(ended) => return Ok(ended),
    };
    let run = replayer.run().id.clone();
    let published = publish(&args, &connections, replayer, &stop).await;
    let outcome = published
        .with_context(|| format!("run {run} ended early: `coupon replay --resume {run}` continues it"))?;
    Ok(match outcome {
        RunEnd::Done => Ended::Done,
        RunEnd::Stopped => Ended::Stopped(Some(run)),
        RunEnd::Cancelled => Ended::Cancelled(run),
    })
}

/// How the command ends before it begins, unless what it does is confirmed: a run of every event, and the end of a run.
async fn unconfirmed(args: &ReplayArgs, config: &Config) -> anyhow::Result<Option<Ended>> {
    let ReplayArgs { confirmation, .. } = args;
    if args.is_unselected() && !confirmation.yes {
        if confirmation.refused().is_some() {
            let advice = "no event is selected: choose events with filters such as --campaign and --type, or give --all \
                          (or --yes) for every event";
            return Ok(Some(Ended::WrongUsage(advice.to_owned())));
        }
        let connections = Connections::open(config, Patience::None).await?;
        let plan = plan(args, &connections, config.shards).await?;
        if plan.events == 0 {
            return Ok(Some(nothing(args, &connections).await?));
        }
        eprintln!("{plan}");
        return Ok(confirmation.ask(&format!("No event is selected. Publish all {} again?", plan.events))?);
    }
    let Some(run) = &args.cancel else { return Ok(None) };
    if let Some(refused) = confirmation.refused() {
        return Ok(Some(refused));
    }
    if !confirmation.looks() {
        return Ok(None);
    }
    let connections = Connections::open(config, Patience::None).await?;
    let stored = stored(&connections.nats, &connections.outlet, run).await?;
    if confirmation.dry_run {
        args.output.dry_run(&json!({ "run": run, "stored": stored }), &["run", "stored"])?;
        return Ok(Some(Ended::Done));
    }
    Ok(confirmation.ask(&format!("Cancel run {run} for ever, and remove its {stored} messages?"))?)
}

/// Lists, cancels, plans, or takes the place of the one replay that runs.
async fn begin(args: &ReplayArgs, config: &Config) -> anyhow::Result<Begun> {
    let connections = Connections::open(config, Patience::None).await?;
    if args.list {
        list(args, &connections).await?;
    } else if let Some(run) = &args.cancel {
        cancel_run(args, &connections, run).await?;
    } else if args.confirmation.dry_run {
        if dry_run(args, &connections, config.shards).await? == 0 {
            return Ok(Begun::Break(nothing(args, &connections).await?));
        }
    } else {
        return match replayer(args, &connections, config.shards).await {
            Ok(replayer) => Ok(Begun::Continue((connections, replayer))),
            Err(busy @ ReplayError::Busy { .. }) => Ok(Begun::Break(Ended::Busy(busy))),
            Err(ReplayError::Nothing) => Ok(Begun::Break(nothing(args, &connections).await?)),
            Err(error) => Err(error.into()),
        };
    }
    Ok(Begun::Break(Ended::Done))
}

/// A replayer of the run to resume, or of a new one.
async fn replayer(
    args: &ReplayArgs,
    connections: &Connections,
    shards: i16,
) -> Result<Replayer, ReplayError> {
    let Connections { database, nats, outlet, .. } = connections.clone();
    if let Some(run) = &args.resume {
        let mut replayer = Replayer::resume(&database, nats, outlet, run).await?;
        if args.rate.is_some() {
            replayer.set_rate(args.rate());
        }
        return Ok(replayer);
    }
    let id = args.run.clone().unwrap_or_else(RunId::generate);
    let request = RunRequest { id, selection: args.selection(), rate: args.rate(), shards };
    Replayer::start(&database, nats, outlet, &request).await
}

/// Prints the plan, publishes, and prints the outcome.
async fn publish(
    args: &ReplayArgs,
    connections: &Connections,
    replayer: Replayer,
    stop: &CancellationToken,
) -> anyhow::Result<RunEnd> {
    let run = replayer.run().clone();
    let plan = Plan::new(run.id.clone(), run.rate, replayer.plans().to_vec());
    // With --json, standard output holds the result alone.
    if args.output.json {
        eprintln!("{plan}");
    } else {
        print::say(&plan)?;
    }
    let bar = progress_bar(plan.events);
    let outcome = replayer.publish(stop, || bar.inc(1)).await;
    bar.finish_and_clear();
    let outcome = outcome?;
    let stored = stored(&connections.nats, &connections.outlet, &run.id).await?;
    report(args, plan, Some(outcome), stored)?;
    Ok(outcome)
}

/// No event matches: because of a campaign that does not exist, or of all filters together.
async fn nothing(args: &ReplayArgs, connections: &Connections) -> anyhow::Result<Ended> {
    for campaign in args.campaigns() {
        if store::get(&connections.pool, *campaign).await?.is_none() {
            return Ok(Ended::NothingSelected(format!("no campaign has the id {campaign}")));
        }
    }
    Ok(Ended::NothingSelected("no event in the outbox matches".to_owned()))
}

/// Prints the plan, and changes nothing. Returns how many events it has.
async fn dry_run(args: &ReplayArgs, connections: &Connections, shards: i16) -> anyhow::Result<i64> {
    let plan = plan(args, connections, shards).await?;
    if !args.output.json {
        print::say(&plan)?;
    }
    let events = plan.events;
    report(args, plan, None, 0)?;
    Ok(events)
}

async fn plan(args: &ReplayArgs, connections: &Connections, shards: i16) -> anyhow::Result<Plan> {
    // Not from the pool, whose statements are cancelled after seconds: counting may take longer.
    let mut connection = connections.database.connect().in_time().await?;
    let (selection, mut plans) = (args.selection(), Vec::new());
    for shard in (0..shards).map(Shard) {
        plans.push(selection.plan(&mut connection, shard).await?);
    }
    let run = args.run.clone().unwrap_or_else(RunId::generate);
    Ok(Plan::new(run, args.rate(), plans))
}

fn report(args: &ReplayArgs, plan: Plan, outcome: Option<RunEnd>, stored: u64) -> anyhow::Result<()> {
    let report = Report::new(plan, outcome, stored);
    if outcome.is_none() {
        return args.output.result(&report, "dry run: nothing is published");
    }
    args.output.result(&report, &report)
}

async fn cancel_run(args: &ReplayArgs, connections: &Connections, run: &RunId) -> anyhow::Result<()> {
    let mut connection = connections.pool.acquire().await?;
    let removed = cancel(&mut connection, &connections.nats, &connections.outlet, run).await?;
    let stream = OUTLET.replay_stream();
    args.output.result(
        &json!({ "run": run, "state": "cancelled", "removed": removed }),
        format_args!("run {run} is cancelled, {removed} messages are removed from {stream}"),
    )
}

async fn list(args: &ReplayArgs, connections: &Connections) -> anyhow::Result<()> {
    let mut connection = connections.pool.acquire().await?;
    let at_work = at_work(&mut connection, &connections.outlet).await?;
    let mut listed = Vec::new();
    for run in Run::list(&mut connection).await? {
        let stored = stored(&connections.nats, &connections.outlet, &run.id).await?;
        listed.push(ListedRun::new(run, at_work.as_ref(), stored));
    }
    args.output.list(&listed, &Value::Null, &LIST_COLUMNS)
}
