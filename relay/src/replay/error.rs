//! Why a replay did not begin, or ended early.

use super::run_id::RunId;
use super::run_state::RunState;
use crate::outlet::Shard;
use crate::stream::StreamError;

/// Why a replay did not begin, or ended early. What was published stays; the run can be resumed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("read the outbox")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("{} is at work, and there is one replay at a time", named(.run.as_ref()))]
    Busy { run: Option<RunId> },
    #[error("there is no run {run}")]
    Unknown { run: RunId },
    #[error("run {run} is there already, {state}: choose another name, or resume it")]
    Exists { run: RunId, state: RunState },
    #[error("run {run} has ended, {state}: there is nothing to resume")]
    Ended { run: RunId, state: RunState },
    #[error("positions {from} to {to} of shard {shard} are gone from the outbox since the run began")]
    Gone { shard: Shard, from: i64, to: i64 },
    #[error("run {run} is older than what stream {stream} keeps: nobody can tell how far it got")]
    Expired { run: RunId, stream: String },
}

fn named(run: Option<&RunId>) -> String {
    run.map_or_else(|| "another run".to_owned(), |run| format!("run {run}"))
}
