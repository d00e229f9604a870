//! What relays and projectors measure, by the names and in the units of Prometheus.
//!
//! Counters and histograms are of this process since its start. Gauges are as of the moment at which they are
//! [sampled](Metrics::sample), from the database.

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

/// Seconds: from what a quiet machine takes to what an outage takes.
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

/// Handles, to be cloned; all clones count together.
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
    /// Gives the metrics their names.
    #[rustfmt::skip]
    pub fn register(&self, registry: &mut Registry) {
        registry.register("outbox_published_events", "Events that the stream has confirmed", self.published.clone());
        registry.register("outbox_refusals", "Times that the stream did not store what was published, so that the relay looked where it ends", self.refused.clone());
        registry.register("outbox_healed_events", "Events that were put into the stream once more, because it had lost them", self.healed.clone());
        registry.register_with_unit("outbox_commit_to_stream", "From the append to the acknowledgement by the stream, of every event, by the clocks of the database and of this process", Unit::Seconds, self.to_stream.clone());
        registry.register("outbox_applied_events", "Events that were applied to projections", self.applied.clone());
        registry.register_with_unit("outbox_commit_to_projected", "From the append to the commit of the projections, of every event, by the same clocks", Unit::Seconds, self.to_projected.clone());
        registry.register("outbox_relay_leads", "1 where the active relay of the shard is", self.leads.clone());
        registry.register("outbox_relay_halted", "1 when the relay has stopped and an operator has to decide", self.halted.clone());
        registry.register_with_unit("outbox_head_of_line_age", "Age of the oldest event that the stream has not confirmed, 0 when there is none; where the active relay is", Unit::Seconds, self.age.clone());
        registry.register("outbox_backlog_events", "Events that the stream has not confirmed; where the active relay is", self.backlog.clone());
        registry.register("outbox_projection_lag_events", "Events that a projection has not applied", self.lag.clone());
        registry.register("outbox_parked_events", "Events that a projection could not apply and that wait to be redriven", self.parked.clone());
    }

    /// Takes the gauges of these relays, and with `projections` those of every projection.
    ///
    /// # Errors
    /// When the database cannot be asked; the gauges stay as they were.
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
            // A relay that has stopped leads no more, and yet nobody else does.
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

/// Seconds since then; never less than none, whatever the clocks say.
pub(crate) fn seconds_since(time: OffsetDateTime) -> f64 {
    (OffsetDateTime::now_utc() - time).as_seconds_f64().max(0.0)
}
