//! What the claim path measures, by the names and in the units of Prometheus. Labels are bounded: shard, outcome and
//! queue, never a campaign or a user.

use outbox_relay::Shard;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::claim::{Asking, Claim, ClaimError, IssueError, Outcome};
use crate::gate::sweeper;
use crate::gate::worker::{self as gate, Gate};
use crate::storage::StorageError;
use crate::trouble::Troubles;
use crate::writer::{self, BATCH_ITEMS, CALL_SECONDS, Writer};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfShard {
    shard: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    shard: i64,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStep {
    step: &'static str,
}

impl From<Shard> for OfShard {
    fn from(shard: Shard) -> Self {
        Self { shard: shard.0.into() }
    }
}

type Histograms = Family<OfShard, Histogram, fn() -> Histogram>;

/// Handles, to be cloned; all clones count together. Counters and histograms count since the process started.
#[derive(Clone, Debug)]
pub struct Metrics {
    answers: Family<OfOutcome, Counter>,
    answers_from_memory: Counter,
    holders_remembered: Gauge,
    gate_batch: Histogram,
    gate_call: Histogram,
    gate_depth: Gauge,
    writer_batch: Histograms,
    writer_commit: Histograms,
    writer_depth: Family<OfShard, Gauge>,
    places: Family<OfShard, Gauge>,
    failures: Family<OfStep, Counter>,
    repairs: Family<OfStep, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            answers: Family::default(),
            answers_from_memory: Counter::default(),
            holders_remembered: Gauge::default(),
            gate_batch: Histogram::new(BATCH_ITEMS),
            gate_call: Histogram::new(CALL_SECONDS),
            gate_depth: Gauge::default(),
            writer_batch: Histograms::new_with_constructor(|| Histogram::new(BATCH_ITEMS)),
            writer_commit: Histograms::new_with_constructor(|| Histogram::new(CALL_SECONDS)),
            writer_depth: Family::default(),
            places: Family::default(),
            failures: Family::default(),
            repairs: Family::default(),
        }
    }
}

impl Metrics {
    /// Gives the metrics their names.
    #[rustfmt::skip]
    pub fn register(&self, registry: &mut Registry) {
        registry.register("claims_answered", "Claims that were answered, by outcome", self.answers.clone());
        registry.register("claims_answered_from_memory", "Refusals that neither the gate nor Postgres was asked for; claims_answered counts them too", self.answers_from_memory.clone());
        registry.register("claims_holders_remembered", "Holders of coupons that refusals from memory tell from other users, of all campaigns", self.holders_remembered.clone());
        registry.register("claims_gate_batch_size", "Claims that one round trip to the gate carried", self.gate_batch.clone());
        registry.register_with_unit("claims_gate_call", "From the call of the gate to its answer, for a whole batch", Unit::Seconds, self.gate_call.clone());
        registry.register("claims_gate_queue_depth", "Operations that wait for the gate now", self.gate_depth.clone());
        registry.register("claims_writer_batch_size", "Claims that one transaction wrote", self.writer_batch.clone());
        registry.register_with_unit("claims_writer_commit", "From the call of issue_batch_2() to the end of its commit, for a whole batch", Unit::Seconds, self.writer_commit.clone());
        registry.register("claims_writer_queue_depth", "Claims that wait for the writer now", self.writer_depth.clone());
        registry.register("claims_places_taken", "Claims in progress now, from before the gate to their answer", self.places.clone());
        registry.register("campaign_failures", "Failures that concerned one campaign alone, by step", self.failures.clone());
        registry.register("gate_repairs", "Gates that contradicted Postgres and were put right, by step", self.repairs.clone());
    }

    /// What the worker of the gate measures.
    #[must_use]
    pub fn of_gate(&self) -> gate::Measures {
        gate::Measures {
            batch: self.gate_batch.clone(),
            call: self.gate_call.clone(),
            failures: self.failures_of("gate"),
        }
    }

    /// What the sweeper counts.
    #[must_use]
    pub fn of_sweeper(&self) -> sweeper::Measures {
        let repairs = |step| self.repairs.get_or_create(&OfStep { step }).clone();
        sweeper::Measures {
            failures: self.failures_of("sweep"),
            corrected: repairs("set"),
            reloaded: repairs("load"),
        }
    }

    /// The failures of the clock that opens and closes campaigns.
    #[must_use]
    pub fn of_clock(&self) -> Troubles {
        Troubles::new("a campaign that is due was not opened or closed", self.failures_of("clock"))
    }

    fn failures_of(&self, step: &'static str) -> Counter {
        self.failures.get_or_create(&OfStep { step }).clone()
    }

    /// What the lane of claims in a shard's writer measures.
    #[must_use]
    pub fn of_writer(&self, shard: Shard) -> writer::Measures {
        let label = OfShard::from(shard);
        writer::Measures {
            batch: self.writer_batch.get_or_create(&label).clone(),
            commit: self.writer_commit.get_or_create(&label).clone(),
        }
    }

    pub(super) fn answered(&self, shard: Shard, result: &Result<Outcome, IssueError>) {
        let outcome = match result {
            Ok(outcome) => name_of(outcome),
            Err(
                IssueError::Claim(ClaimError::Overloaded) | IssueError::Storage(StorageError::Overloaded),
            ) => "overloaded",
            Err(IssueError::Claim(ClaimError::GateUnreachable | ClaimError::GateUnloaded)) => {
                "gate-unavailable"
            }
            Err(IssueError::Claim(ClaimError::NotWritten)) => "not-written",
            Err(IssueError::Claim(ClaimError::Unknown)) => "unknown",
            Err(IssueError::KeyInUse) => "idempotency-key-in-use",
            Err(IssueError::Storage(_)) => "storage-unavailable",
        };
        self.answers.get_or_create(&OfOutcome { shard: shard.0.into(), outcome }).inc();
    }

    /// [`Metrics::answered`] counts the answer too.
    pub(super) fn answered_from_memory(&self) {
        self.answers_from_memory.inc();
    }

    /// Takes the depths of the queues, and what is remembered, of this moment.
    pub(super) fn sample(&self, gate: &Gate<Asking>, writers: &[Writer<Claim>], remembered: usize) {
        let count = |items: usize| i64::try_from(items).unwrap_or(i64::MAX);
        self.holders_remembered.set(count(remembered));
        self.gate_depth.set(count(gate.depth()));
        for (shard, writer) in (0..).zip(writers) {
            let label = OfShard { shard };
            self.writer_depth.get_or_create(&label).set(count(writer.depth()));
            self.places.get_or_create(&label).set(count(writer.places_taken()));
        }
    }
}

fn name_of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Issued(_) => "issued",
        Outcome::AlreadyIssued(_) => "already-issued",
        Outcome::LimitReached(_) => "user-limit-reached",
        Outcome::SoldOut(_) => "sold-out",
        Outcome::NotOpen { .. } => "not-open",
        Outcome::Closed(_) => "closed",
        Outcome::NoSuchCampaign => "not-found",
        Outcome::Replayed(_) => "replayed",
        Outcome::KeyRequired => "idempotency-key-required",
        Outcome::KeyReused => "idempotency-key-reused",
    }
}
