//! What changes of coupons measure, by the names and in the units of Prometheus.

use outbox_relay::Shard;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::change::{ChangeKind, Outcome};
use crate::trouble::Troubles;
use crate::writer::{BATCH_ITEMS, CALL_SECONDS, Measures, WriteError};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfShard {
    shard: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    kind: &'static str,
    outcome: &'static str,
}

type Histograms = Family<OfShard, Histogram, fn() -> Histogram>;

/// Handles, to be cloned; all clones count together, since the process started.
#[derive(Clone, Debug)]
pub struct Metrics {
    answers: Family<OfOutcome, Counter>,
    batch: Histograms,
    commit: Histograms,
    failures: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            answers: Family::default(),
            batch: Histograms::new_with_constructor(|| Histogram::new(BATCH_ITEMS)),
            commit: Histograms::new_with_constructor(|| Histogram::new(CALL_SECONDS)),
            failures: Counter::default(),
        }
    }
}

impl Metrics {
    /// Gives the metrics their names.
    #[rustfmt::skip]
    pub fn register(&self, registry: &mut Registry) {
        registry.register("coupon_changes_answered", "Changes of coupons that were answered, by kind and outcome", self.answers.clone());
        registry.register("coupon_changes_batch_size", "Changes of coupons that one transaction wrote", self.batch.clone());
        registry.register_with_unit("coupon_changes_commit", "From the call of change_coupons() to the end of its commit, for a whole batch", Unit::Seconds, self.commit.clone());
        registry.register("coupon_expiry_failures", "Campaigns whose coupons did not expire in a round", self.failures.clone());
    }

    /// What the lane of changes in a shard's writer measures.
    #[must_use]
    pub fn of_writer(&self, shard: Shard) -> Measures {
        let label = OfShard { shard: shard.0.into() };
        Measures {
            batch: self.batch.get_or_create(&label).clone(),
            commit: self.commit.get_or_create(&label).clone(),
        }
    }

    /// The failures of the walk that makes coupons expire.
    #[must_use]
    pub fn of_expiry(&self) -> Troubles {
        Troubles::new("coupons of a campaign that are due did not expire", self.failures.clone())
    }

    pub(super) fn answered(&self, kind: ChangeKind, outcome: &Result<Outcome, WriteError>) {
        let outcome = match outcome {
            Ok(Outcome::Changed(..)) => "changed",
            Ok(Outcome::Replayed(_)) => "replayed",
            Ok(Outcome::Possible) => "possible",
            Ok(Outcome::Refused(..)) => "refused",
            Ok(Outcome::KeyReused) => "idempotency-key-reused",
            Ok(Outcome::NoSuchCoupon) => "not-found",
            Err(WriteError::Overloaded) => "overloaded",
            Err(WriteError::NotWritten) => "not-written",
            Err(WriteError::Unknown) => "unknown",
        };
        self.answers.get_or_create(&OfOutcome { kind: kind.as_str(), outcome }).inc();
    }
}
