//! What `coupon replay` prints, in words and as JSON.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use indicatif::FormattedDuration;
use outbox_relay::replay::{Run, RunEnd, RunId, RunState, Selection, ShardPlan};
use serde::Serialize;
use time::OffsetDateTime;

use crate::event::OUTLET;

/// What a run will publish.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    run: RunId,
    /// The subject to which a reader of the run subscribes.
    pub(super) subject: String,
    pub(super) stream: String,
    pub(super) events: i64,
    /// Bytes of the events' data, without envelope and headers.
    pub(super) data_bytes: i64,
    /// Events a second; without a limit if `None`.
    pub(super) rate: Option<NonZeroU32>,
    /// Seconds that the run takes at this rate.
    pub(super) duration_s: Option<u64>,
    pub(super) shards: Vec<ShardPlan>,
}

/// What a run has published.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) plan: Plan,
    pub(super) outcome: &'static str,
    /// Messages of the run in the stream.
    pub(super) stored: u64,
}

impl Plan {
    pub(super) fn new(run: RunId, rate: Option<NonZeroU32>, shards: Vec<ShardPlan>) -> Self {
        let events = shards.iter().map(|plan| plan.events).sum::<i64>();
        Self {
            subject: run.subjects(),
            run,
            stream: OUTLET.replay_stream(),
            events,
            data_bytes: shards.iter().map(|plan| plan.data_bytes).sum(),
            rate,
            duration_s: rate.map(|rate| events.unsigned_abs().div_ceil(rate.get().into())),
            shards,
        }
    }
}

impl Report {
    pub(super) fn new(plan: Plan, outcome: Option<RunEnd>, stored: u64) -> Self {
        let outcome = match outcome {
            None => "planned",
            Some(RunEnd::Done) => "done",
            Some(RunEnd::Stopped) => "stopped",
            Some(RunEnd::Cancelled) => "cancelled",
        };
        Self { plan, outcome, stored }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run {}: to {} in stream {}", self.run, self.subject, self.stream)?;
        for plan in &self.shards {
            let ShardPlan { shard, events, data_bytes, .. } = plan;
            write!(f, "  shard {shard}: {events} events")?;
            if let (Some(first), Some(last)) = (plan.first, plan.last) {
                write!(f, ", positions {first} to {last}, {data_bytes} bytes of data")?;
            }
            if let Some(position) = plan.available_from {
                write!(f, "; the outbox begins at position {position}: earlier events are gone")?;
            }
            writeln!(f)?;
        }
        write!(f, "in all {} events, {} bytes of data, ", self.events, self.data_bytes)?;
        match (self.rate, self.duration_s) {
            (Some(rate), Some(seconds)) => {
                let duration = FormattedDuration(Duration::from_secs(seconds));
                write!(f, "{duration} at {rate} events/s")
            }
            _ => write!(f, "as fast as NATS confirms them"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} messages of the run are in the stream", self.outcome, self.stored)
    }
}

/// One line of the list of runs.
#[derive(Debug, Serialize)]
pub(super) struct ListedRun {
    run: RunId,
    /// `running` now, `interrupted` (can be resumed), `done` or `cancelled`.
    pub(super) state: &'static str,
    pub(super) events: i64,
    /// Messages of the run in the stream, which drops them with age.
    pub(super) stored: u64,
    pub(super) rate: Option<NonZeroU32>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) started_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(super) ended_at: Option<OffsetDateTime>,
    pub(super) selection: Selection,
}

impl ListedRun {
    pub(super) fn new(run: Run, at_work: Option<&RunId>, stored: u64) -> Self {
        let state = match run.state {
            RunState::Running if at_work == Some(&run.id) => "running",
            RunState::Running => "interrupted",
            RunState::Done => "done",
            RunState::Cancelled => "cancelled",
        };
        let Run { id, selection, rate, events, started_at, ended_at, .. } = run;
        Self { run: id, state, events, stored, rate, started_at, ended_at, selection }
    }
}

/// The fields of a [`ListedRun`] in a table.
pub(super) const LIST_COLUMNS: [&str; 5] = ["run", "state", "stored", "events", "started_at"];
