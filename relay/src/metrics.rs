//! What relays and projectors measure, with the names and units of Prometheus.
//!
//! Counters and histograms count since the start of this process. Gauges are read from the database when they
//! are [sampled](Metrics::sample).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use sqlx::PgConnection;
use std::sync::atomic::AtomicU64;
use time::OffsetDateTime;

use crate::outlet::Shard;
use crate::status::RelayStatus;

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
        registry.register_with_unit("outbox_head_of_line_age", "Age of the oldest event that the stream has not acknowledged, 0 when there is none; exported by the process with the active relay", Unit::Seconds, self.age.clone());
        registry.register("outbox_backlog_events", "Events that the stream has not acknowledged; exported by the process with the active relay", self.backlog.clone());
        registry.register("outbox_projection_lag_events", "Events that a projection has not applied yet", self.lag.clone());
        registry.register("outbox_parked_events", "Events that a projection could not apply, and that wait to be redriven or dropped", self.parked.clone());
    }

    /// Updates the gauges of these relays, and those of `projections` for all `shards`.
    ///
    /// # Errors
    /// When a query fails; the gauges keep their values.
    pub async fn sample(
        &self,
        connection: &mut PgConnection,
        relays: &[(Shard, RelayStatus)],
        projections: &[&str],
        shards: i16,
    ) -> Result<(), sqlx::Error> {
        for (shard, status) in relays {
            let label = OfShard::from(*shard);
            self.leads.get_or_create(&label).set(status.leads.into());
            self.halted.get_or_create(&label).set(status.halted.is_some().into());
            // A relay that has stopped does not lead, and no other relay leads either.
            if status.leads || status.halted.is_some() {
                let (backlog, age): (i64, Option<f64>) = sqlx::query_as(
                    "SELECT outbox_head($1) - $2, \
                     (SELECT extract(epoch FROM clock_timestamp() - time)::float8 FROM outbox WHERE shard = $1 AND position = $2 + 1)",
                )
                .bind(shard)
                .bind(status.published)
                .fetch_one(&mut *connection)
                .await?;
                self.backlog.get_or_create(&label).set(backlog.max(0));
                self.age.get_or_create(&label).set(age.unwrap_or_default());
            } else {
                self.backlog.remove(&label);
                self.age.remove(&label);
            }
        }
        if projections.is_empty() {
            return Ok(());
        }
        let of_projections: Vec<(String, i16, i64, i64)> = sqlx::query_as(
            "SELECT name, shard::smallint, greatest(outbox_head(shard::smallint) - projection_position(name, shard::smallint), 0), \
             (SELECT count(*) FROM parked_events WHERE projection = name AND parked_events.shard = s.shard) \
             FROM unnest($1::text[]) AS name, generate_series(0, $2 - 1) AS s (shard)",
        )
        .bind(projections)
        .bind(i32::from(shards))
        .fetch_all(connection)
        .await?;
        for (projection, shard, lag, parked) in of_projections {
            let label = OfProjection { projection, shard: shard.into() };
            self.lag.get_or_create(&label).set(lag);
            self.parked.get_or_create(&label).set(parked);
        }
        Ok(())
    }
}

/// Seconds since `time`; 0 when it lies in the future, as clocks may differ.
pub(crate) fn seconds_since(time: OffsetDateTime) -> f64 {
    (OffsetDateTime::now_utc() - time).as_seconds_f64().max(0.0)
}
