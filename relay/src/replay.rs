//! Events again, to a subscriber who asks for them. They go to subjects of their own,
//! `replay.<run>.<type>.<key>.<shard>`, so that nobody else is disturbed. A replayed event keeps
//! its id and its position; only its message id is another, `<event id>.<run>`.
//!
//! A [`Run`] is remembered in the table `outbox_replays`: what was selected, up to which position
//! of each shard. It can be cut off at any point and resumed. In the end each selected event is in
//! the stream once, and all are in order: shard by shard, by position. Why that is so:
//!
//! * Where a run has got to is what the stream says: all up to the run's last message is there.
//! * Who goes on reads the stream's end first, and the run's last message after that. What it then
//!   publishes is stored only if the stream still ends there, and each message only directly behind
//!   the one before it. So whatever a killed, frozen or cut off process still sends is the next
//!   event of the run, or it is refused; and the same holds for what is sent in its place. Nobody
//!   has to wait for it, and no window in time matters.
//! * One run is at work at a time. That is a courtesy, by an advisory lock of the connection that
//!   does the work: two at once would refuse each other again and again.
//! * Who cancels a run marks it first; then puts a message at the stream's end, which is behind all
//!   that was stored and refuses all that was not; then removes the messages of the run.

mod chain;
mod flight;
mod pace;
mod run;
mod selection;
mod stored;

use std::num::NonZeroU32;

use async_nats::Client;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

pub use flight::Outcome;
pub use run::{Run, RunId, RunIdError, RunState, at_work};
pub use selection::{Selection, ShardPlan};
pub use stored::stored;

use crate::failpoint;
use crate::leadership;
use crate::outlet::{Outlet, Shard};
use crate::stream::{self, StreamError};
use crate::zoo;
use selection::Range;

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

/// Holds the place of the one replay at work, for one run.
#[derive(Debug)]
pub struct Replayer {
    outlet: Outlet,
    nats: Client,
    connection: PgConnection,
    run: Run,
    plans: Vec<ShardPlan>,
}

impl Replayer {
    /// Takes the place and remembers a new run over `shards` shards. Publishes nothing yet.
    ///
    /// # Errors
    /// When another run is at work, or there has been a run of this name.
    pub async fn start(
        database: &PgConnectOptions,
        nats: Client,
        outlet: Outlet,
        shards: i16,
        id: &RunId,
        selection: &Selection,
        rate: Option<NonZeroU32>,
    ) -> Result<Self, ReplayError> {
        let mut connection = run::connect(database, id).await?;
        let (mut ranges, mut plans) = (Vec::new(), Vec::new());
        for shard in (0..shards).map(Shard) {
            let range = selection.range(&mut connection, shard).await?;
            plans.push(selection.count(&mut connection, shard, range).await?);
            ranges.push(range);
        }
        let run = Run::begin(&mut connection, id, selection, rate, &ranges, &plans).await?;
        failpoint::reached("replay.begun").await;
        Ok(Self { outlet, nats, connection, run, plans })
    }

    /// Takes the place for a run that was cut off. Publishes nothing yet.
    ///
    /// # Errors
    /// When another run is at work, or this one has ended.
    pub async fn resume(
        database: &PgConnectOptions,
        nats: Client,
        outlet: Outlet,
        id: &RunId,
    ) -> Result<Self, ReplayError> {
        let mut connection = run::connect(database, id).await?;
        let run = Run::find(&mut connection, id).await?;
        if run.state != RunState::Running {
            return Err(ReplayError::Ended { run: run.id, state: run.state });
        }
        let mut replayer = Self { outlet, nats, connection, run, plans: Vec::new() };
        let (_, left) = replayer.left().await?;
        for (shard, range) in left {
            let plan = replayer.run.selection.count(&mut replayer.connection, shard, range).await?;
            replayer.plans.push(plan);
        }
        Ok(replayer)
    }

    /// Another rate than the one that the run was started with, for this time.
    pub fn set_rate(&mut self, rate: Option<NonZeroU32>) {
        self.run.rate = rate;
    }

    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// What is to be published, shard by shard.
    #[must_use]
    pub fn plans(&self) -> &[ShardPlan] {
        &self.plans
    }

    /// Publishes it, until all is confirmed, the run is cancelled by somebody, or `stop`; then what
    /// is on its way is confirmed first. Each confirmed event is told to `progress`.
    ///
    /// An interruption of NATS is waited out for half a minute.
    ///
    /// # Errors
    /// When a server is away or the events are gone.
    pub async fn publish(
        mut self,
        stop: &CancellationToken,
        progress: impl FnMut(),
    ) -> Result<Outcome, ReplayError> {
        let result = flight::publish(&mut self, stop, progress).await;
        // So that the place is free by the time that this is told; if it fails, it will be soon.
        let release = sqlx::query("SELECT pg_advisory_unlock_all()");
        drop(release.execute(&mut self.connection).await);
        result
    }

    /// The end of the stream of replays, and what of the run is not in it, read in this order: what
    /// was stored in between has moved the end, and nothing is stored behind the one that was read.
    async fn left(&mut self) -> Result<(u64, Vec<(Shard, Range)>), ReplayError> {
        let asked = async {
            let stream = stream::of_replays(&self.nats, &self.outlet).await?;
            let reached = stored::reached(&stream, &self.run.id).await?;
            Ok::<_, StreamError>((stream, reached))
        };
        let (stream, reached) = leadership::keep(&mut self.connection, asked).await??;
        let end = stream.cached_info().state.last_sequence;
        let reached = reached.filter(|_| !zoo::has("replay-starts-over"));
        let kept = stream.cached_info().config.max_age;
        let age = time::OffsetDateTime::now_utc() - self.run.started_at;
        if reached.is_none() && !kept.is_zero() && age > kept {
            return Err(ReplayError::Expired {
                run: self.run.id.clone(),
                stream: self.outlet.replay_stream(),
            });
        }
        let shards = (0..).map(Shard).zip(&self.run.ranges);
        // In order of the shards: those before the one that was reached are done.
        let left = shards.map(|(shard, range)| match reached {
            Some((at, _)) if shard < at => (shard, Range { first: range.last + 1, ..*range }),
            Some((at, position)) if shard == at => (shard, Range { first: position + 1, ..*range }),
            _ => (shard, *range),
        });
        Ok((end, left.collect()))
    }
}

/// Ends a run for ever and removes its messages from the stream. A process that is at work on it
/// stops within a second. Answers how many messages were removed.
///
/// # Errors
/// When there is no such run, or a server is away; then it can be cancelled again.
pub async fn cancel(
    connection: &mut PgConnection,
    nats: &Client,
    outlet: &Outlet,
    id: &RunId,
) -> Result<u64, ReplayError> {
    Run::end(connection, id, &["running", "done"], "cancelled").await?;
    Run::find(connection, id).await?;
    Ok(stored::remove(nats, outlet, id).await?)
}
