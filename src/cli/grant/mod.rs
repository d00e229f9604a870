//! `coupon grant`: coupons of one campaign for many users, through the API.
//!
//! The users are read as a stream, and results are written as a stream, so memory does not grow with the file. Each line
//! has an idempotency key of its own: a claim that is repeated, by this process or by a later one, gives no second coupon.

mod claim;
mod input;
mod lines;
mod records;
mod results;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use futures_util::{StreamExt as _, stream};
use indicatif::ProgressBar;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::claim::{Claimer, Outcome, UNANSWERED};
use self::input::{Entry, Format, Users, count_lines, name};
use self::results::Results;
use super::api::ApiArgs;
use super::ended::Ended;
use super::print::{Output, table};
use super::stop;
use crate::client::Client;
use crate::ids::CampaignId;
use crate::progress::progress_bar;

/// Lines for each claim at a time that are begun at most: while the oldest one waits for its answer, others go on.
const LINES_PER_CLAIM: usize = 4;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The file with the users, or - for standard input: CSV with a column `user_id`, or JSON Lines with a member `user_id`.
    users: PathBuf,
    /// The campaign.
    #[arg(long, value_name = "ID")]
    campaign: CampaignId,
    /// The file for the results, which must not exist: a line of CSV for each line of the users, in their order.
    #[arg(long, value_name = "FILE")]
    results: PathBuf,
    /// Go on behind the last whole line of the results file.
    #[arg(long)]
    resume: bool,
    /// Name of the run. A line of a run gets one coupon, however often it is repeated. Made of the path of the results file if not given.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    run: Option<String>,
    /// How the users are given; told by the ending of the file's name or, without one, by the first byte if not given.
    #[arg(long)]
    format: Option<Format>,
    /// Claims in flight at a time, 1 to 512.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=512))]
    concurrency: u16,
    /// How long a claim without an answer is repeated, in seconds, 1 to 3600.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=3600))]
    patience: u16,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

/// Claims a coupon for each user, writes what became of it, and prints the counts.
pub(super) async fn run(arguments: Arguments, client: &Client) -> anyhow::Result<Ended> {
    let (mut users, mut results) = match begin(&arguments).await {
        Ok(begun) => begun,
        Err(problem) => return Ok(Ended::WrongUsage(problem)),
    };
    let stop = stop::on_signal()?;
    let bar = bar(&arguments)?;
    bar.inc(results.lines());
    let granted = grant(&arguments, client, &mut users, &mut results, (&stop, &bar)).await;
    bar.finish_and_clear();
    if !granted.with_context(|| results.how_to_go_on())? {
        return Ok(Ended::Interrupted(format!("stopped: {}", results.how_to_go_on())));
    }
    results.sync().with_context(|| format!("write {}", arguments.results.display()))?;
    report(&arguments, &results)
}

/// Opens both files, and goes to the first line without a result.
async fn begin(arguments: &Arguments) -> Result<(Users, Results), String> {
    let Arguments { users, campaign, results, resume, run, format, .. } = arguments;
    let mut users = Users::open(users, *format)?;
    let mut results = Results::open(results, *resume, *campaign, run.as_deref())?;
    results.catch_up(&mut users).await?;
    Ok((users, results))
}

/// A bar with a step for each line of the users.
fn bar(arguments: &Arguments) -> anyhow::Result<ProgressBar> {
    let bar = progress_bar(0);
    if !bar.is_hidden() {
        match count_lines(&arguments.users)? {
            Some(lines) => bar.set_length(lines),
            None => bar.unset_length(),
        }
    }
    Ok(bar)
}

/// Claims, and writes results in the order of the lines. Returns whether all lines have one: false after a signal.
async fn grant(
    arguments: &Arguments,
    client: &Client,
    users: &mut Users,
    results: &mut Results,
    (stop, bar): (&CancellationToken, &ProgressBar),
) -> anyhow::Result<bool> {
    let concurrency = usize::from(arguments.concurrency);
    let patience = Duration::from_secs(arguments.patience.into());
    let claimer = &Claimer::new(client, arguments.campaign, results.run().clone(), patience, concurrency);
    let entries = stream::unfold(users, async |users| Some((users.next().await?, users)));
    let granted = entries.map(async |entry| -> anyhow::Result<(Entry, Outcome)> {
        let entry = entry.with_context(|| format!("read {}", name(&arguments.users)))?;
        let outcome = claimer.outcome(&entry).await?;
        Ok((entry, outcome))
    });
    let mut granted = std::pin::pin!(granted.buffered(concurrency * LINES_PER_CLAIM));
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(false),
            next = granted.next() => next,
        };
        let Some((entry, outcome)) = next.transpose()? else { return Ok(true) };
        let written = results.write(&entry, &outcome);
        written.with_context(|| format!("write {}", arguments.results.display()))?;
        bar.inc(1);
    }
}

/// Prints how many lines had each outcome. Lines without an answer decide the exit code.
fn report(arguments: &Arguments, results: &Results) -> anyhow::Result<Ended> {
    let (outcomes, file) = (results.outcomes(), arguments.results.display().to_string());
    let rows: Vec<_> =
        outcomes.iter().map(|(outcome, lines)| json!({ "outcome": outcome, "lines": lines })).collect();
    let summary = json!({ "lines": results.lines(), "outcomes": outcomes, "results": file });
    arguments.output.result(&summary, table(&rows, &["outcome", "lines"]))?;
    Ok(match outcomes.get(UNANSWERED) {
        None => Ended::Done,
        Some(lines) => Ended::Unanswered(format!(
            "{lines} lines have no answer: move {file} away and run the command again without --resume, which gives no line \
             a second coupon"
        )),
    })
}
