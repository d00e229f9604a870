//! One of the two binaries that are compared, on servers of its own, and what is measured of it.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use coupon_dispatcher::event::OUTLET;
use outbox_relay::{Shard, stream};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection};

use crate::cpu;
use crate::load::{Targets, head, projected};
use crate::night::{self, Kind, Night};
use crate::service::{Service, ready};
use crate::support::{wait_for, wait_until};

/// Of each segment. The machine changes its pace within seconds: many short turns find the same pace more often than a
/// few long ones.
const SECONDS: u64 = 1;
const MANY_CAMPAIGNS: usize = 100;
/// Drained in about a second, which is 200 times the interval at which the stream is asked.
const BACKLOG_EVENTS: i64 = 60_000;
const SHARD: Shard = Shard(0);
/// So that neither autovacuum nor a checkpoint hits one binary and not the other.
const SETTINGS: [&str; 4] = [
    "ALTER SYSTEM SET autovacuum = off",
    "ALTER SYSTEM SET max_wal_size = '16GB'",
    "ALTER SYSTEM SET checkpoint_timeout = '1h'",
    "SELECT pg_reload_conf()",
];
/// In calls of 500 events as large as those of coupons, of a type that no projection uses.
const APPEND: &str = "SELECT count(outbox_append(0::smallint, ids, types, keys, keys, datas, traceparents)) FROM (\
    SELECT array_agg(gen_random_uuid()) AS ids, array_agg('benched'::text) AS types, array_agg('bench'::text) AS keys, \
           array_agg(json_build_object('text', repeat('x', 300))::text) AS datas, \
           array_agg(NULL::text) AS traceparents \
    FROM generate_series(0, $1 - 1) AS number GROUP BY number / 500) AS calls";

/// What is measured in one turn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Segment {
    /// Issues per second, p99 in ms, and microseconds of CPU time per issue of the service, Postgres, Redis, NATS, wrk.
    Claims,
    /// Requests per second.
    Livez,
    /// Issues per second, of 100 campaigns.
    ManyCampaigns,
    /// Answers per second.
    Night(Kind),
    /// Events per second.
    Drain,
}

#[derive(Debug)]
pub(crate) struct World {
    service: Service,
    night: Night,
    campaigns: Targets,
    database: PgConnection,
    nats: async_nats::Client,
}

impl World {
    pub(crate) async fn start(program: &Path) -> Result<Self> {
        let service = Service::start(program, &[]).await?;
        let mut database = PgConnection::connect(&service.servers.database_url()).await?;
        for setting in SETTINGS {
            sqlx::raw_sql(setting).execute(&mut database).await?;
        }
        let nats = async_nats::connect(service.servers.nats_url()).await?;
        let (night, campaigns) =
            (Night::begin(&service).await?, night::campaigns(&service, MANY_CAMPAIGNS).await?);
        Ok(Self { service, night, campaigns, database, nats })
    }

    /// `turn` must differ from that of earlier claims.
    pub(crate) async fn measure(&mut self, segment: Segment, turn: usize) -> Result<Vec<f64>> {
        match segment {
            Segment::Claims => self.claims(turn).await,
            Segment::Livez => Ok(vec![self.service.livez().await?]),
            Segment::ManyCampaigns => {
                let claims = self.service.claims_of(&self.campaigns, turn, SECONDS).await?;
                Ok(vec![claims.rate()])
            }
            Segment::Night(kind) => {
                let answers = self.night.measure(&self.service, kind, turn, SECONDS).await?;
                Ok(vec![answers.rate()])
            }
            Segment::Drain => Ok(vec![self.drain().await?]),
        }
    }

    /// Lets Postgres plan by the size that the tables have now, as autovacuum would.
    pub(crate) async fn analyze(&mut self) -> Result<()> {
        sqlx::raw_sql("ANALYZE").execute(&mut self.database).await?;
        Ok(())
    }

    /// CPU time of the service, Postgres, Redis and NATS since they were started, in microseconds.
    pub(crate) fn cpu_us(&self) -> Result<[f64; 4]> {
        cpu::service_us(&self.service)
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    async fn claims(&mut self, turn: usize) -> Result<Vec<f64>> {
        let times_us = |world: &Self| anyhow::Ok((world.cpu_us()?, cpu::ended_children_us()?));
        let (servers_before, wrk_before) = times_us(self)?;
        let claims = self.service.claims(turn, SECONDS).await?;
        let (servers, wrk) = times_us(self)?;
        let spent = servers.iter().zip(servers_before).map(|(after, before)| after - before);
        let spent = spent.chain([wrk - wrk_before]).map(|us| us / claims.issued as f64);
        Ok([claims.rate(), claims.p99_ms].into_iter().chain(spent).collect())
    }

    /// Appends a backlog while the service is frozen; timed from the first of its events in the stream to the
    /// last. Returns when the projections have passed it and the service can issue again.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    async fn drain(&mut self) -> Result<f64> {
        let pid = self.service.process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let pid = pid.context("the service has ended")?;
        let Self { database, nats, .. } = self;
        let stream = OUTLET.stream_of(SHARD);
        let before = head(database).await?.cast_unsigned();
        kill_process(pid, Signal::STOP)?;
        let appended = sqlx::query(APPEND).bind(BACKLOG_EVENTS).execute(&mut *database).await;
        kill_process(pid, Signal::CONT)?;
        appended?;
        let head = head(database).await?;
        let first =
            wait_for(async || Ok(Some(stream::end(nats, &stream).await?).filter(|end| *end > before)));
        let (first, started) = (first.await?, Instant::now());
        wait_until(async || Ok(stream::end(nats, &stream).await? >= head.cast_unsigned())).await?;
        let drained = (head.cast_unsigned() - first) as f64 / started.elapsed().as_secs_f64();
        wait_until(async || Ok(projected(database).await? >= head)).await?;
        // A question to Redis may have timed out while the service was frozen.
        ready(self.service.address).await?;
        Ok(drained)
    }
}
