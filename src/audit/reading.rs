//! One reading of everything: quick figures, or in full.

use anyhow::bail;
use indicatif::ProgressBar;
use outbox_relay::audit::{Comparison, ShardAudit, ShardPart, compare};
use sqlx::PgConnection;

use super::rows::{self, Rows};
use super::sheet::{CampaignBalance, ShardBalance, Sheet};
use super::{GATE_TIMEOUT, behind, connect, differences, ends, figures, seats};
use crate::connections::Connections;
use crate::event::OUTLET;
use crate::gate::redis::Seats;
use crate::ids::CampaignId;
use crate::progress::progress_bar;

/// A sheet that is being made, of quick figures at first.
pub(super) struct Reading<'a> {
    connections: &'a Connections,
    connection: PgConnection,
    gates: Seats,
    only: Option<CampaignId>,
    shards: Vec<ShardAudit>,
    campaigns: Vec<CampaignBalance>,
}

impl<'a> Reading<'a> {
    /// Reads what can be had without counting rows.
    pub(super) async fn start(
        connections: &'a Connections,
        shards: i16,
        only: Option<CampaignId>,
    ) -> anyhow::Result<Self> {
        let mut connection = connect(&connections.database).await?;
        let mut gates = Seats::connect(&connections.redis, GATE_TIMEOUT).await?;
        let audited = ends(connections, &mut connection, shards).await?;
        let campaigns = figures::read(connections, &mut connection, &mut gates, shards, only).await?;
        if let Some(id) = only.filter(|_| campaigns.is_empty()) {
            bail!("there is no campaign {id}");
        }
        Ok(Self { connections, connection, gates, only, shards: audited, campaigns })
    }

    pub(super) async fn quick(mut self) -> anyhow::Result<Sheet> {
        let mut difference = None;
        for index in 0..self.campaigns.len() {
            difference = match difference {
                None => self.named(index).await?,
                known => known,
            };
        }
        let difference = difference.or_else(|| self.in_streams()).or_else(|| self.in_shards());
        Ok(self.sheet(difference, &[]))
    }

    pub(super) async fn full(mut self) -> anyhow::Result<Sheet> {
        let bar = progress_bar(self.work());
        let comparisons = self.compare_events(&bar).await?;
        let mut rows = self.compare_rows(&bar).await?;
        let stranger = figures::count(&mut self.connection, &mut self.campaigns, self.only).await?;
        let mut difference = None;
        for index in 0..self.campaigns.len() {
            if difference.is_none() {
                difference = self.in_campaign(index, &mut rows, &bar).await?;
            }
        }
        bar.finish_and_clear();
        let unknown = rows.differences.into_iter().next();
        let difference = difference
            .or_else(|| unknown.map(|(id, named)| format!("campaign {id}: {named}")))
            .or(stranger)
            .or_else(|| {
                comparisons.iter().find_map(|found| found.first_difference.as_ref().map(ToString::to_string))
            })
            .or_else(|| self.in_shards())
            .or_else(|| self.in_streams());
        Ok(self.sheet(difference, &comparisons))
    }

    /// Steps of the bar: each event twice, and each coupon's seat.
    fn work(&self) -> i64 {
        let events = self.shards.iter().map(|shard| shard.end() + shard.head - 2 * (shard.first - 1));
        let loaded = self.campaigns.iter().filter(|balance| balance.gate.is_some());
        events.sum::<i64>() + loaded.map(|balance| balance.coupons).sum::<i64>()
    }

    async fn compare_events(&mut self, bar: &ProgressBar) -> anyhow::Result<Vec<Comparison>> {
        let mut comparisons = Vec::new();
        for shard in &self.shards {
            let part = ShardPart { shard: shard.shard, after: shard.first - 1, until: shard.end() };
            let nats = &self.connections.nats;
            let progress = |positions| bar.inc(positions);
            comparisons.push(compare(&mut self.connection, nats, &OUTLET, part, progress).await?);
        }
        Ok(comparisons)
    }

    async fn compare_rows(&mut self, bar: &ProgressBar) -> anyhow::Result<Rows> {
        let mut rows = Rows::of(self.only);
        for shard in &self.shards {
            let part = (shard.first - 1, shard.head);
            rows.compare(&mut self.connection, shard.shard, part, |positions| bar.inc(positions)).await?;
        }
        for index in 0..self.campaigns.len() {
            let CampaignBalance { campaign_id, coupons, .. } = self.campaigns[index];
            let whole = self.is_whole(index);
            rows.compare_untold(&mut self.connection, campaign_id, coupons, whole).await?;
        }
        Ok(rows)
    }

    /// What differs in a campaign by its figures, and the coupon in which it does.
    async fn in_campaign(
        &mut self,
        index: usize,
        rows: &mut Rows,
        bar: &ProgressBar,
    ) -> anyhow::Result<Option<String>> {
        let balance = &self.campaigns[index];
        let (id, loaded) = (balance.campaign_id, balance.gate.is_some());
        let contradiction = differences::at_rest(balance, self.is_whole(index));
        let mut named = rows.differences.remove(&id);
        if named.is_none() && contradiction.is_some() {
            named = rows::too_much(&mut self.connection, id).await?;
        }
        if named.is_none() && loaded {
            let (pool, gates) = (&self.connections.pool, &mut self.gates);
            named = seats::first_difference(pool, gates, id, |coupons| bar.inc(coupons)).await?;
        }
        Ok(match (contradiction, named) {
            (Some(contradiction), Some(named)) => Some(format!("{contradiction}; {named}")),
            (None, Some(named)) => Some(format!("campaign {id}: {named}")),
            (contradiction, None) => contradiction,
        })
    }

    /// What differs in a campaign by its quick figures. If it is the seats, they are looked through.
    async fn named(&mut self, index: usize) -> anyhow::Result<Option<String>> {
        let balance = &self.campaigns[index];
        let Some(contradiction) = differences::at_rest(balance, self.is_whole(index)) else {
            return Ok(None);
        };
        let named = match balance.gate {
            Some(_) => {
                let pool = &self.connections.pool;
                seats::first_difference(pool, &mut self.gates, balance.campaign_id, drop).await?
            }
            None => None,
        };
        Ok(Some(match named {
            Some(named) => format!("{contradiction}; {named}"),
            None => contradiction,
        }))
    }

    fn in_streams(&self) -> Option<String> {
        let whole = |balance: &&CampaignBalance| {
            self.shards.iter().any(|audited| audited.shard == balance.shard && audited.is_whole())
        };
        self.campaigns.iter().filter(whole).find_map(differences::in_stream)
    }

    fn in_shards(&self) -> Option<String> {
        let contradiction = |shard: &ShardAudit| {
            Some(shard.contradiction().or_else(|| Some(shard.lag()?.difference))?.to_string())
        };
        let behind = || self.shards.iter().flat_map(behind).next();
        self.shards.iter().find_map(contradiction).or_else(|| Some(behind()?.difference))
    }

    /// Whether the outbox still holds every event of a campaign.
    fn is_whole(&self, index: usize) -> bool {
        let shard = self.campaigns[index].shard;
        self.shards.iter().find(|audited| audited.shard == shard).is_none_or(|audited| audited.first == 1)
    }

    fn sheet(self, difference: Option<String>, comparisons: &[Comparison]) -> Sheet {
        let shards = self.shards.iter().enumerate();
        let shards = shards.map(|(index, shard)| ShardBalance::new(shard, comparisons.get(index))).collect();
        Sheet { campaigns: self.campaigns, shards, difference }
    }
}
