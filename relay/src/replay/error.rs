//! Why a replay did not begin, or ended early.

use super::run_id::RunId;
use super::run_state::RunState;
use crate::outlet::Shard;
use crate::stream::StreamError;

/// Why a replay did not begin, or ended early. What it has published stays; the run can be resumed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("read the outbox")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("{} is at work, and only one replay may be", named(.run.as_ref()))]
    Busy { run: Option<RunId> },
    #[error("no event in the outbox matches the selection")]
    Nothing,
    #[error("there is no run {run}")]
    Unknown { run: RunId },
    #[error("there is already a run {run}, {state}: choose another name, or resume it")]
    Exists { run: RunId, state: RunState },
    #[error("{}", ended(run, *state))]
    Ended { run: RunId, state: RunState },
    #[error("positions {from} to {to} of shard {shard} are gone from the outbox since the run began")]
    Gone { shard: Shard, from: i64, to: i64 },
    #[error("run {run} is older than what stream {stream} keeps: how far it got is unknown")]
    Expired { run: RunId, stream: String },
}

fn ended(run: &RunId, state: RunState) -> String {
    match state {
        RunState::Cancelled => format!("run {run} was cancelled, which is final: start a new run instead"),
        RunState::Done | RunState::Running => format!("run {run} is done: there is nothing to resume"),
    }
}

fn named(run: Option<&RunId>) -> String {
    run.map_or_else(|| "another run".to_owned(), |run| format!("run {run}"))
}
