//! The right to publish a run, and what is left of it.

use std::num::NonZeroU32;

use async_nats::Client;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;

use super::error::ReplayError;
use super::run::{self, Run, RunRequest};
use super::run_id::RunId;
use super::run_state::RunState;
use super::selection::{Range, ShardPlan};
use super::stored;
use crate::failpoint;
use crate::leadership;
use crate::outlet::{Outlet, Shard};
use crate::stream::{self, StreamError};
use crate::zoo;

/// Holds the lock of the one active replay, for one run.
#[derive(Debug)]
pub struct Replayer {
    pub(super) outlet: Outlet,
    pub(super) nats: Client,
    pub(super) connection: PgConnection,
    pub(super) run: Run,
    plans: Vec<ShardPlan>,
}

impl Replayer {
    /// Takes the lock and records a new run. Publishes nothing yet.
    ///
    /// # Errors
    /// When another run is active, there has been a run of this name, the selection holds no event, or the stream of
    /// replays belongs to another deployment.
    pub async fn start(
        database: &PgConnectOptions,
        nats: Client,
        outlet: Outlet,
        request: &RunRequest,
    ) -> Result<Self, ReplayError> {
        let RunRequest { id, selection, shards, .. } = request;
        stream::may_replay(&nats, &outlet).await?;
        let mut connection = run::connect(database, &outlet, id).await?;
        let (mut ranges, mut plans) = (Vec::new(), Vec::new());
        for shard in (0..*shards).map(Shard) {
            let range = selection.range(&mut connection, shard).await?;
            plans.push(selection.count(&mut connection, shard, range).await?);
            ranges.push(range);
        }
        if plans.iter().all(|plan| plan.events == 0) {
            return Err(ReplayError::Nothing);
        }
        let run = Run::begin(&mut connection, request, &ranges, &plans).await?;
        failpoint::reached("replay.begun").await;
        Ok(Self { outlet, nats, connection, run, plans })
    }

    /// Takes the lock for a run that was interrupted. Publishes nothing yet.
    ///
    /// # Errors
    /// When another run is active, or this one has ended.
    pub async fn resume(
        database: &PgConnectOptions,
        nats: Client,
        outlet: Outlet,
        id: &RunId,
    ) -> Result<Self, ReplayError> {
        let mut connection = run::connect(database, &outlet, id).await?;
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

    /// Sets another rate than the one that the run was started with, for this time only.
    pub fn set_rate(&mut self, rate: Option<NonZeroU32>) {
        self.run.rate = rate;
    }

    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// What is left to publish, for each shard.
    #[must_use]
    pub fn plans(&self) -> &[ShardPlan] {
        &self.plans
    }

    /// The end of the stream of replays, and the ranges of the run that are not in it, read in this order: a
    /// message stored in between has moved the end, and so this process stores nothing at the end that it read.
    pub(super) async fn left(&mut self) -> Result<(u64, Vec<(Shard, Range)>), ReplayError> {
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
        // Shards are published in order: those before the reached one are done.
        let left = shards.map(|(shard, range)| match reached {
            Some((at, _)) if shard < at => (shard, Range { first: range.last + 1, ..*range }),
            Some((at, position)) if shard == at => (shard, Range { first: position + 1, ..*range }),
            _ => (shard, *range),
        });
        Ok((end, left.collect()))
    }
}
