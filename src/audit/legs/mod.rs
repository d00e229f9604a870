//! The legs: gate = coupons = outbox = stream = wallet = settlement, and the changes of coupons in all of them. A new one is a file, and a line in [`Legs::all`].

mod changes;
pub(super) mod coupons;
pub(super) mod gate;
mod outbox;
mod projected;
mod seats;
mod serials;
mod settlement;
pub(super) mod stream;
mod wallet;

use outbox_relay::audit::ShardPart;
use sqlx::PgConnection;

use self::projected::Projected;
use super::campaigns::{CHUNK_CAMPAIGNS, Campaign, Campaigns};
use super::chunk::Chunk;
use super::difference::{Difference, LegName};
use super::leg::{Leg, Look, Unannounced};
use super::sheet::{CampaignBalance, Column, Compared};
use super::sources::{Sources, snapshot};

/// All legs, in the order in which a coupon crosses them. It is the order of the sheet's columns.
#[derive(Debug)]
pub(super) struct Legs(Vec<Box<dyn Leg>>);

impl Legs {
    /// Legs that have read nothing yet.
    pub(super) fn all() -> Self {
        Self(vec![
            Box::<gate::Gate>::default(),
            Box::<coupons::Coupons>::default(),
            Box::<outbox::Outbox>::default(),
            Box::<stream::Stream>::default(),
            Box::<Projected<wallet::Wallet>>::default(),
            Box::<Projected<settlement::Settlement>>::default(),
            Box::<changes::Changes>::default(),
        ])
    }

    pub(super) fn names(&self) -> Vec<LegName> {
        self.0.iter().map(|leg| leg.name()).collect()
    }

    /// Reads and judges what can be had without counting rows, of some campaigns at a time.
    pub(super) async fn quick(
        &mut self,
        sources: &mut Sources,
        campaigns: &mut [Campaign],
        look: Look,
    ) -> anyhow::Result<()> {
        for chunk in campaigns.chunks_mut(CHUNK_CAMPAIGNS) {
            for leg in &mut self.0 {
                leg.quick(sources, chunk, look).await?;
            }
            Campaign::read_issued_after(&mut sources.connection, chunk).await?;
            for leg in &mut self.0 {
                leg.judge(sources, chunk, look).await?;
            }
        }
        Ok(())
    }

    /// Counts the rows of all tables, as of one moment. Returns the first campaign with rows that does not exist.
    pub(super) async fn count(
        &mut self,
        sources: &mut Sources,
        campaigns: &mut Campaigns,
    ) -> anyhow::Result<Option<Difference>> {
        let mut snapshot = snapshot(&mut sources.connection).await?;
        let mut unknown = None;
        for leg in &mut self.0 {
            let found = leg.count(&mut snapshot, campaigns).await?;
            unknown = unknown.or(found);
        }
        Ok(unknown)
    }

    /// The figures of a campaign that differ: the coupons' first, since the others are compared with them.
    pub(super) fn figures(&self, campaign: &Campaign) -> Vec<Difference> {
        let mut differences: Vec<_> = self.0.iter().filter_map(|leg| leg.figures(campaign)).collect();
        differences.sort_by_key(|difference| difference.leg != coupons::NAME);
        differences
    }

    /// Compares a part of a shard's outbox with each leg that has the events themselves.
    pub(super) async fn part(
        &mut self,
        sources: &mut Sources,
        part: ShardPart,
    ) -> anyhow::Result<(Compared, Option<Difference>)> {
        for leg in &mut self.0 {
            if let Some(compared) = leg.part(sources, part).await? {
                return Ok(compared);
            }
        }
        Ok((Compared::default(), None))
    }

    /// Compares a chunk with the rows of each leg.
    pub(super) async fn batch(
        &mut self,
        connection: &mut PgConnection,
        chunk: &Chunk,
    ) -> anyhow::Result<Vec<Difference>> {
        let mut differences = Vec::new();
        for leg in &mut self.0 {
            differences.extend(leg.batch(connection, chunk).await?);
        }
        Ok(differences)
    }

    /// After the last chunk: the coupons of a campaign of which no event told.
    pub(super) fn unannounced(&mut self, campaign: &Campaign) -> Unannounced {
        let mut all = Unannounced::default();
        for leg in &mut self.0 {
            let Unannounced { until, difference } = leg.unannounced(campaign);
            all = Unannounced { until: until.max(all.until), difference: all.difference.or(difference) };
        }
        all
    }

    /// The first row or seat of a campaign that belongs to no coupon. If no figure differs, only those legs are
    /// searched whose batches would not have shown it.
    pub(super) async fn stranger(
        &mut self,
        sources: &mut Sources,
        campaign: &Campaign,
        figures_differ: bool,
    ) -> anyhow::Result<Option<Difference>> {
        for leg in &mut self.0 {
            if (figures_differ || !leg.batches_find_the_missing())
                && let Some(found) = leg.stranger(sources, campaign).await?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The same for one leg.
    pub(super) async fn stranger_in(
        &mut self,
        name: LegName,
        sources: &mut Sources,
        campaign: &Campaign,
    ) -> anyhow::Result<Option<Difference>> {
        match self.0.iter_mut().find(|leg| leg.name() == name) {
            Some(leg) => leg.stranger(sources, campaign).await,
            None => Ok(None),
        }
    }

    /// A campaign's line of the sheet.
    pub(super) fn balance(&self, campaign: &Campaign) -> CampaignBalance {
        let columns = self.0.iter().map(|leg| Column {
            leg: leg.name(),
            printed: leg.printed(campaign),
            fields: leg.fields(campaign),
        });
        CampaignBalance {
            campaign_id: campaign.id,
            name: campaign.name.clone(),
            state: campaign.state,
            quantity: campaign.quantity,
            columns: columns.collect(),
        }
    }
}
