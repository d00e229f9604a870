//! One audit of everything: by quick figures, or in full.

use anyhow::bail;
use indicatif::ProgressBar;
use outbox_relay::audit::{ShardAudit, ShardPart};

use super::campaigns::{Campaign, Campaigns};
use super::difference::Difference;
use super::ends;
use super::leg::Look;
use super::legs::Legs;
use super::sheet::{Compared, ShardBalance, Sheet};
use super::sources::{Sources, connect};
use super::walk::Walk;
use crate::connections::Connections;
use crate::ids::CampaignId;

/// An audit that has read the quick figures.
pub(super) struct Reading {
    sources: Sources,
    legs: Legs,
    shards: Vec<ShardAudit>,
    /// As of the cut.
    campaigns: Campaigns,
}

/// What the comparison of each shard's outbox with the stream came to.
type Parts = Vec<(Compared, Option<Difference>)>;

impl Reading {
    /// Makes the cut, waits for what is on its way to it, and reads what can be had without counting rows.
    ///
    /// # Errors
    /// When one of the servers does not answer, or the only campaign does not exist.
    pub(super) async fn start(
        connections: &Connections,
        shards: i16,
        only: Option<CampaignId>,
        bar: ProgressBar,
    ) -> anyhow::Result<Self> {
        let connection = connect(&connections.database).await?;
        let mut sources = Sources::new(connections, connection, shards, bar).await?;
        let mut campaigns = Campaigns::cut(&mut sources.connection, shards, only).await?;
        if let Some(id) = only.filter(|_| campaigns.list.is_empty() && campaigns.unreadable.is_empty()) {
            bail!("there is no campaign {id}: `coupon campaign list` shows those that exist");
        }
        let shards = ends::at_the_cut(&mut sources, &campaigns.heads).await?;
        campaigns.know(&shards);
        let mut legs = Legs::all();
        legs.quick(&mut sources, &mut campaigns.list, Look::Patient).await?;
        if !sources.failures.is_empty() {
            let failures: Vec<String> = sources.failures.iter().map(|error| format!("{error:#}")).collect();
            bail!(failures.join("; "));
        }
        Ok(Self { sources, legs, shards, campaigns })
    }

    pub(super) async fn quick(mut self) -> anyhow::Result<Sheet> {
        let mut difference = None;
        for campaign in &self.campaigns.list {
            let figure = self.legs.figures(campaign).into_iter().next();
            if let Some(figure) = figure {
                let example = self.legs.stranger_in(figure.leg, &mut self.sources, campaign).await?;
                difference = Some(figure.with_example(example));
                break;
            }
        }
        let difference = difference
            .or_else(|| self.campaigns.unreadable.first().cloned())
            .or_else(|| ends::first(&self.shards, &self.campaigns.heads));
        Ok(self.sheet(difference, Vec::new()))
    }

    pub(super) async fn full(mut self) -> anyhow::Result<Sheet> {
        let events: i64 = self.parts().iter().map(|part| 2 * (part.until - part.after)).sum();
        self.sources.bar.inc_length(events.unsigned_abs());
        let parts = self.compare_parts().await?;
        let mut walk = self.compare_rows().await?;
        let unknown = self.legs.count(&mut self.sources, &mut self.campaigns).await?;
        let mut difference = None;
        let Self { sources, legs, campaigns, shards } = &mut self;
        for campaign in &campaigns.list {
            difference = in_campaign(legs, sources, campaign, &mut walk, &parts).await?;
            if difference.is_some() {
                break;
            }
        }
        for audited in shards.iter() {
            let now = ends::read(sources, audited.shard).await?;
            if now.first != audited.first {
                let shard = audited.shard;
                bail!("the oldest events of shard {shard} left the outbox meanwhile: audit again");
            }
        }
        sources.bar.finish_and_clear();
        let difference = difference
            .or_else(|| campaigns.unreadable.first().cloned())
            .or_else(|| walk.differences.into_values().next())
            .or(unknown)
            .or_else(|| parts.iter().find_map(|(_, found)| found.clone()))
            .or_else(|| ends::first(shards, &campaigns.heads));
        Ok(self.sheet(difference, parts))
    }

    /// Each shard's events up to the cut.
    fn parts(&self) -> Vec<ShardPart> {
        let cuts = self.shards.iter().zip(&self.campaigns.heads);
        cuts.map(|(audited, head)| ShardPart { shard: audited.shard, after: audited.first - 1, until: *head })
            .collect()
    }

    /// With what the stream holds behind the end of the outbox.
    async fn compare_parts(&mut self) -> anyhow::Result<Parts> {
        let mut parts = Vec::new();
        for (part, audited) in self.parts().into_iter().zip(&self.shards) {
            let until = if audited.ahead() > 0 { audited.end() } else { part.until };
            parts.push(self.legs.part(&mut self.sources, ShardPart { until, ..part }).await?);
        }
        Ok(parts)
    }

    async fn compare_rows(&mut self) -> anyhow::Result<Walk> {
        let mut walk = Walk::default();
        let parts = self.parts();
        let Self { sources, legs, campaigns, .. } = self;
        for part in parts {
            walk.events(legs, sources, campaigns.only, part).await?;
        }
        for campaign in &campaigns.list {
            walk.unannounced(legs, sources, campaign).await?;
        }
        Ok(walk)
    }

    fn sheet(self, difference: Option<Difference>, parts: Parts) -> Sheet {
        let Self { legs, campaigns, shards, .. } = self;
        let mut compared = parts.into_iter().map(|(compared, _)| compared);
        Sheet {
            legs: legs.names(),
            campaigns: campaigns.list.iter().map(|campaign| legs.balance(campaign)).collect(),
            shards: shards.iter().map(|shard| ShardBalance::new(shard, compared.next())).collect(),
            difference,
        }
    }
}

/// The first difference of a campaign in a full audit: the figure that differs, with a row or seat that explains it.
async fn in_campaign(
    legs: &mut Legs,
    sources: &mut Sources,
    campaign: &Campaign,
    walk: &mut Walk,
    parts: &Parts,
) -> anyhow::Result<Option<Difference>> {
    let figure = legs.figures(campaign).into_iter().next();
    let mut example = walk.differences.remove(&Some(campaign.id));
    if example.is_none() {
        example = legs.stranger(sources, campaign, figure.is_some()).await?;
    }
    let Some(figure) = figure else { return Ok(example) };
    let of_part = || {
        let found = parts.iter().filter_map(|(_, found)| found.as_ref());
        found.clone().find(|found| (found.leg, found.shard) == (figure.leg, figure.shard)).cloned()
    };
    let example = example.or_else(of_part);
    Ok(Some(figure.with_example(example)))
}
