//! What relays and projectors measure, with the names and units of Prometheus.
//!
//! Counters and histograms count since the start of this process. Gauges are read from the database when they
//! are [set](Metrics::set).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;
use time::OffsetDateTime;

use crate::outlet::Shard;
use crate::standing::{ProjectionStanding, Standing};
use crate::status::RelayStatus;
use crate::zoo;

/// In seconds: from the latency of a quiet machine to the length of an outage.
const BUCKETS: [f64; 15] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfShard {
    shard: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProjection {
    projection: String,
    shard: i64,
}

impl From<Shard> for OfShard {
    fn from(shard: Shard) -> Self {
        Self { shard: shard.0.into() }
    }
}

type Histograms = Family<OfShard, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

/// A handle to the metrics. Clones share the same counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) published: Family<OfShard, Counter>,
    pub(crate) refused: Family<OfShard, Counter>,
    pub(crate) healed: Family<OfShard, Counter>,
    pub(crate) to_stream: Histograms,
    pub(crate) applied: Family<OfShard, Counter>,
    pub(crate) to_projected: Histograms,
    leads: Family<OfShard, Gauge>,
    halted: Family<OfShard, Gauge>,
    age: Family<OfShard, Seconds>,
    backlog: Family<OfShard, Gauge>,
    lag: Family<OfProjection, Gauge>,
    parked: Family<OfProjection, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let histograms = || Histograms::new_with_constructor(|| Histogram::new(BUCKETS));
        Self {
            published: Family::default(),
            refused: Family::default(),
            healed: Family::default(),
            to_stream: histograms(),
            applied: Family::default(),
            to_projected: histograms(),
            leads: Family::default(),
            halted: Family::default(),
            age: Family::default(),
            backlog: Family::default(),
            lag: Family::default(),
            parked: Family::default(),
        }
    }
}

impl Metrics {
    /// Registers all metrics under their names.
    #[rustfmt::skip]
    pub fn register(&self, registry: &mut Registry) {
        registry.register("outbox_published_events", "Events that the stream has acknowledged", self.published.clone());
        registry.register("outbox_refusals", "Publishes that the stream did not store, after which the relay asked the stream where it ends", self.refused.clone());
        registry.register("outbox_healed_events", "Events that were published again because the stream had lost them", self.healed.clone());
        registry.register_with_unit("outbox_commit_to_stream", "From the append to the acknowledgement by the stream, of every event, by the clocks of the database and of this process", Unit::Seconds, self.to_stream.clone());
        registry.register("outbox_applied_events", "Events applied to projections", self.applied.clone());
        registry.register_with_unit("outbox_commit_to_projected", "From the append to the commit of the projections, of every event, by the same clocks", Unit::Seconds, self.to_projected.clone());
        registry.register("outbox_relay_leads", "1 in the process with the active relay of the shard, 0 in others", self.leads.clone());
        registry.register("outbox_relay_halted", "1 while the relay has stopped and waits for a decision of an operator", self.halted.clone());
        registry.register_with_unit("outbox_head_of_line_age", "Age of the oldest event that the stream has not acknowledged, 0 when there is none; absent when it is not known", Unit::Seconds, self.age.clone());
        registry.register("outbox_backlog_events", "Events that the stream has not acknowledged; absent when it is not known", self.backlog.clone());
        registry.register("outbox_projection_lag_events", "Events that a projection has not applied yet", self.lag.clone());
        registry.register("outbox_parked_events", "Events that a projection could not apply, and that wait to be redriven or dropped", self.parked.clone());
    }

    /// Sets the gauges to what these relays report and what the servers say. What is not known has no gauge.
    pub fn set(
        &self,
        relays: &[(Shard, RelayStatus)],
        standings: &[Standing],
        projections: &[ProjectionStanding],
    ) {
        for (shard, status) in relays {
            self.leads.get_or_create(&OfShard::from(*shard)).set(status.leads.into());
        }
        for standing in standings {
            let label = OfShard::from(standing.shard);
            self.halted.get_or_create(&label).set(standing.halted.is_some().into());
            let told = standing.backlog().zip(standing.age);
            if let Some((backlog, age)) = told.or(zoo::has("unknown-is-zero").then_some((0, 0.0))) {
                self.backlog.get_or_create(&label).set(backlog);
                self.age.get_or_create(&label).set(age);
            } else {
                self.backlog.remove(&label);
                self.age.remove(&label);
            }
        }
        for ProjectionStanding { projection, shard, lag, parked, .. } in projections {
            let label = OfProjection { projection: projection.clone(), shard: shard.0.into() };
            self.lag.get_or_create(&label).set(*lag);
            self.parked.get_or_create(&label).set(*parked);
        }
    }
}

impl Metrics {
    /// Removes the gauges of what the servers say: they have not answered for too long.
    pub fn forget(&self) {
        for family in [&self.halted, &self.backlog] {
            family.clear();
        }
        self.age.clear();
        self.lag.clear();
        self.parked.clear();
    }
}

/// Seconds since `time`; 0 when it lies in the future, as clocks may differ.
pub(crate) fn seconds_since(time: OffsetDateTime) -> f64 {
    (OffsetDateTime::now_utc() - time).as_seconds_f64().max(0.0)
}
