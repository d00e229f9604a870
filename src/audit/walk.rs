//! The walk along the outbox: every event and its coupon against every leg, a chunk at a time.

use std::collections::{BTreeMap, BTreeSet};

use outbox_relay::audit::ShardPart;
use outbox_relay::strict::id_of;

use super::campaigns::Campaign;
use super::chunk::{CHUNK_ROWS, Chunk};
use super::difference::Difference;
use super::leg::Unannounced;
use super::legs::Legs;
use super::sources::Sources;
use crate::ids::CampaignId;

/// What a walk has found so far.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The first difference of each campaign.
    pub(super) differences: BTreeMap<Option<CampaignId>, Difference>,
    /// The campaigns of the events that were compared.
    pub(super) campaigns: BTreeSet<CampaignId>,
}

impl Walk {
    /// Compares the events of a part, and their coupons; of the `only` campaign, if there is one.
    pub(super) async fn events(
        &mut self,
        legs: &mut Legs,
        sources: &mut Sources,
        only: Option<CampaignId>,
        ShardPart { shard, mut after, until }: ShardPart,
    ) -> anyhow::Result<()> {
        let Sources { connection, bar, .. } = sources;
        while after < until {
            let end = until.min(after + CHUNK_ROWS);
            let part = ShardPart { shard, after, until: end };
            let chunk = Chunk::of_events(connection, only, part).await?;
            self.note(legs.batch(connection, &chunk).await?);
            self.campaigns.extend(chunk.events.iter().filter_map(|event| id_of(&event.key)).map(CampaignId));
            bar.inc((end - after).unsigned_abs());
            after = end;
        }
        Ok(())
    }

    /// After the last event: compares the coupons of a campaign of which none told.
    pub(super) async fn unannounced(
        &mut self,
        legs: &mut Legs,
        sources: &mut Sources,
        campaign: &Campaign,
    ) -> anyhow::Result<()> {
        let Unannounced { until, difference } = legs.unannounced(campaign);
        self.note(difference);
        let mut number = 0;
        while number < until {
            let chunk = Chunk::of_coupons(&mut sources.connection, campaign, (number, until)).await?;
            let Some(last) = chunk.coupons.last() else { break };
            number = last.number;
            self.note(legs.batch(&mut sources.connection, &chunk).await?);
        }
        Ok(())
    }

    fn note(&mut self, found: impl IntoIterator<Item = Difference>) {
        for difference in found {
            self.differences.entry(difference.campaign).or_insert(difference);
        }
    }
}
