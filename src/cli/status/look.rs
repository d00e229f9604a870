//! One look at what Postgres and NATS say.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use outbox_relay::standing::{self, ProjectionStanding, Standing};
use outbox_relay::{Outlet, Shard};
use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};

use crate::campaign::{State, store};
use crate::config::Config;
use crate::connections::{Patience, connect_database, connect_nats, database};
use crate::event::OUTLET;
use crate::ids::CampaignId;
use crate::page::PageLimit;
use crate::pool::Pool;
use crate::projections;
use crate::schema;

/// Campaigns in a look, at most: what fits on a screen. The newest are shown.
const CAMPAIGNS_MAX: i64 = 30;
/// States of campaigns that are shown: those that give coupons, or will.
const STATES: [State; 3] = [State::Scheduled, State::Open, State::Paused];
/// For the answer of NATS about one stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(1);
/// One at work, and one in its place if it is lost.
const CONNECTIONS: u16 = 2;

/// What a look has found.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    #[serde(with = "time::serde::rfc3339")]
    pub(super) at: OffsetDateTime,
    /// Campaigns that are scheduled, open or paused, the newest first, at most 30.
    pub(super) campaigns: Vec<CampaignStatus>,
    /// There are more of these campaigns.
    pub(super) more_campaigns: bool,
    pub(super) shards: Vec<ShardStatus>,
    pub(super) projections: Vec<ProjectionStatus>,
}

#[derive(Debug, Serialize)]
pub(super) struct CampaignStatus {
    id: CampaignId,
    name: String,
    state: State,
    quantity: i32,
    pub(super) issued: i32,
    pub(super) left: i32,
    /// Coupons a second since the look before; `None` if it did not see the campaign.
    pub(super) issued_per_s: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct ShardStatus {
    pub(super) shard: Shard,
    /// Events in the outbox.
    head: i64,
    /// Events of the outbox that the stream does not have; `None` if NATS does not say where the stream ends.
    pub(super) backlog: Option<i64>,
    /// The age of the oldest of them in seconds.
    pub(super) oldest_age_s: Option<f64>,
    /// The session at Postgres of the active relay; `None` if none is active.
    pub(super) leader: Option<String>,
    /// Why the relay has stopped.
    pub(super) halted: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct ProjectionStatus {
    projection: String,
    shard: Shard,
    position: i64,
    pub(super) lag: i64,
    pub(super) parked: i64,
}

/// Looks again and again, on the same connections.
#[derive(Debug)]
pub(super) struct Looker {
    pool: Pool,
    nats: Option<async_nats::Client>,
    outlet: Outlet,
    shards: i16,
    /// Coupons of each campaign in the look before, and when that was.
    before: Option<(Instant, HashMap<CampaignId, i32>)>,
}

impl Looker {
    /// # Errors
    /// When Postgres cannot be reached or its schema does not fit. NATS may be away.
    pub(super) async fn connect(config: &Config) -> anyhow::Result<Self> {
        let mut connection = connect_database(config).await?;
        let deployment = schema::check(&mut connection, config.shards, config.deployment).await?;
        Ok(Self {
            pool: Pool::new(&database(config)?, CONNECTIONS)?,
            nats: connect_nats(config, Patience::Endless).await.ok(),
            outlet: Outlet { deployment: Some(deployment), ..OUTLET },
            shards: config.shards,
            before: None,
        })
    }

    /// # Errors
    /// When Postgres does not answer.
    pub(super) async fn look(&mut self) -> anyhow::Result<Status> {
        let limit = PageLimit::new(CAMPAIGNS_MAX + 1).unwrap_or_default();
        let page = store::page(&self.pool, None, Some(&STATES), limit).await.context("read the campaigns")?;
        let (mut campaigns, more_campaigns) = (page.items, page.next.is_some());
        campaigns.truncate(usize::try_from(CAMPAIGNS_MAX)?);
        let now = Instant::now();
        let issued = campaigns.iter().map(|standing| (standing.campaign.id, standing.issued)).collect();
        let before = self.before.replace((now, issued));
        let rate = |id: CampaignId, issued: i32| {
            let (at, counts) = before.as_ref()?;
            Some(f64::from(issued - counts.get(&id)?) / (now - *at).as_secs_f64())
        };
        let campaigns = campaigns.into_iter().map(|store::Standing { campaign, issued, left, .. }| {
            let issued_per_s = rate(campaign.id, issued);
            CampaignStatus {
                id: campaign.id,
                name: campaign.name,
                state: campaign.state,
                quantity: campaign.quantity,
                issued,
                left,
                issued_per_s,
            }
        });
        let mut lease = self.pool.acquire().await.context("connect to Postgres")?;
        let (shards, projections) = self.shards(&mut lease).await?;
        lease.rest();
        let at = OffsetDateTime::now_utc().truncate_to_millisecond();
        Ok(Status { at, campaigns: campaigns.collect(), more_campaigns, shards, projections })
    }

    async fn shards(
        &self,
        connection: &mut PgConnection,
    ) -> anyhow::Result<(Vec<ShardStatus>, Vec<ProjectionStatus>)> {
        // One look waits for a silent NATS once.
        let (mut ends, mut answers) = (Vec::new(), true);
        for shard in (0..self.shards).map(Shard) {
            let end = if answers { self.end_of(connection, shard).await } else { None };
            answers = end.is_some();
            ends.push((shard, end.flatten()));
        }
        let standings = Standing::read(connection, &self.outlet, &ends).await.context("read the outbox")?;
        let projections = standing::of_projections(connection, &projections::names(), self.shards).await;
        let projections = projections.context("read the projections")?;
        Ok((
            standings.into_iter().map(ShardStatus::from).collect(),
            projections.into_iter().map(ProjectionStatus::from).collect(),
        ))
    }

    /// Where a stream ends, as far as that is known; `None` if NATS does not answer in time.
    async fn end_of(&self, connection: &mut PgConnection, shard: Shard) -> Option<Option<i64>> {
        let nats = self.nats.as_ref()?;
        let asked = standing::published(connection, nats, &self.outlet, shard);
        timeout(STREAM_TIMEOUT, asked).await.ok()?.ok()
    }
}

impl From<Standing> for ShardStatus {
    fn from(standing: Standing) -> Self {
        let backlog = standing.backlog();
        let Standing { shard, head, age, leader, halted, .. } = standing;
        Self { shard, head, backlog, oldest_age_s: age, leader, halted }
    }
}

impl From<ProjectionStanding> for ProjectionStatus {
    fn from(standing: ProjectionStanding) -> Self {
        let ProjectionStanding { projection, shard, position, lag, parked } = standing;
        Self { projection, shard, position, lag, parked }
    }
}
