//! The gate: a seat for every coupon, a coupon for every seat, and the campaign as Postgres has it.

use std::collections::{HashMap, HashSet};

use sqlx::PgPool;

use crate::audit::campaigns::{Campaign, Campaigns};
use crate::audit::difference::{Difference, LegName, Mismatch};
use crate::audit::leg::{Asking, Field, Leg, Moment};
use crate::audit::sources::Sources;
use crate::audit::value::Value;
use crate::campaign::sweep;
use crate::coupon::store;
use crate::gate::record::{FieldDifference, Record};
use crate::gate::seat::Seat;
use crate::gate::walk::SWEPT_AFTER_CLOSE;
use crate::ids::CampaignId;

pub(in crate::audit) const NAME: LegName = LegName::new("gate");

/// Seats compared at a time: one question to Redis and one to Postgres, of some milliseconds each.
const SEATS: i64 = 1_000;
/// Gates that are read side by side.
const GATES: usize = 1_000;

/// What the campaigns have at the gate whose gates are loaded.
#[derive(Debug, Default)]
pub(super) struct Gate(HashMap<CampaignId, Found>);

#[derive(Debug)]
struct Found {
    record: Record,
    /// The first field that decides who gets a coupon, and differs.
    differs: Option<FieldDifference>,
}

impl Leg for Gate {
    fn name(&self) -> LegName {
        NAME
    }

    fn quick<'a>(&'a mut self, sources: &'a mut Sources, campaigns: &'a mut Campaigns) -> Asking<'a, ()> {
        Box::pin(async move {
            for part in campaigns.list.chunks(GATES) {
                for (id, found) in read(sources, part).await? {
                    self.0.insert(id, found);
                }
            }
            let loaded = campaigns.list.iter().filter(|campaign| self.0.contains_key(&campaign.id));
            sources.bar.inc_length(loaded.map(|campaign| campaign.issued.unsigned_abs()).sum());
            Ok(())
        })
    }

    /// A gate takes every seat before its coupon, and confirms none before: with claims on their way, the coupons
    /// are between the seats that are confirmed and those that are taken.
    fn figures(&self, campaign: &Campaign, moment: Moment) -> Option<Difference> {
        let Found { record, differs } = self.0.get(&campaign.id)?;
        let (confirmed, pending, issued) = (record.confirmed(), record.pending, campaign.issued);
        let agrees = match moment {
            Moment::AtRest => confirmed == issued && pending == 0,
            Moment::UnderWay => (confirmed..=confirmed + pending).contains(&issued),
        };
        if !agrees {
            return Some(Difference {
                expected: Some(issued.into()),
                found: Some(confirmed.into()),
                ..campaign.difference(NAME, Mismatch::Seats { pending })
            });
        }
        let FieldDifference { field, expected, found } = differs.clone()?;
        Some(Difference {
            expected: Some(Value::Text(expected)),
            found: found.map(Value::Text),
            ..campaign.difference(NAME, Mismatch::GateField { field })
        })
    }

    /// The first coupon without a seat, or else the first seat without a coupon.
    fn stranger<'a>(
        &'a mut self,
        sources: &'a mut Sources,
        campaign: &'a Campaign,
    ) -> Asking<'a, Option<Difference>> {
        Box::pin(async move {
            if !self.0.contains_key(&campaign.id) {
                return Ok(None);
            }
            match without_seat(sources, campaign).await? {
                None => without_coupon(sources, campaign).await,
                missing => Ok(missing),
            }
        })
    }

    fn batches_find_the_missing(&self) -> bool {
        false
    }

    fn printed(&self, campaign: &Campaign) -> Option<i64> {
        self.0.get(&campaign.id).map(|found| found.record.confirmed())
    }

    fn fields(&self, campaign: &Campaign) -> Vec<Field> {
        let pending = self.0.get(&campaign.id).map_or(0, |found| found.record.pending);
        vec![("gate", self.printed(campaign).map(Value::from)), ("pending", Some(pending.into()))]
    }
}

/// Reads the gates of these campaigns, and then the campaigns. A gate that differs is read again: its campaign may have
/// changed in between.
async fn read(sources: &Sources, campaigns: &[Campaign]) -> anyhow::Result<Vec<(CampaignId, Found)>> {
    let mut found = loaded(sources, campaigns.iter().map(|campaign| campaign.id).collect()).await?;
    let ids: Vec<CampaignId> = found.iter().map(|(id, _)| *id).collect();
    let mut now = HashMap::new();
    for seen in sweep::of_ids(&sources.connections.pool, &ids).await? {
        // The gate is not asked any more, and nobody keeps it up to date.
        if !seen.snapshot.is_over_for(SWEPT_AFTER_CLOSE) {
            now.insert(seen.snapshot.campaign.id, seen.snapshot.campaign);
        }
    }
    let differs =
        |id: CampaignId, record: &Record| now.get(&id).and_then(|campaign| record.differs(campaign));
    let suspects = found.iter().filter(|(id, record)| differs(*id, record).is_some()).map(|(id, _)| *id);
    let again: HashMap<_, _> = loaded(sources, suspects.collect()).await?.into_iter().collect();
    let found = found.drain(..).map(|(id, record)| {
        let differs = again.get(&id).and_then(|record| differs(id, record));
        (id, Found { record, differs })
    });
    Ok(found.collect())
}

/// Of these gates those that are loaded.
async fn loaded(sources: &Sources, ids: Vec<CampaignId>) -> anyhow::Result<Vec<(CampaignId, Record)>> {
    let records = sources.gates.records(&ids).await;
    let mut found = Vec::with_capacity(ids.len());
    for (id, record) in ids.into_iter().zip(records) {
        if let Some(record) = record? {
            found.push((id, record));
        }
    }
    Ok(found)
}

async fn without_seat(sources: &mut Sources, campaign: &Campaign) -> anyhow::Result<Option<Difference>> {
    let pool = &sources.connections.pool;
    let mut number = 0;
    loop {
        let holders = store::holders(pool, campaign.id, number, SEATS).await?;
        let Some(last) = holders.last() else { return Ok(None) };
        number = last.number;
        let seats: Vec<Seat> = holders.iter().map(|holder| Seat::new(&holder.user_id, holder.nth)).collect();
        let taken = sources.gates.are_taken(campaign.id, &seats).await?;
        if let Some((holder, _)) = holders.iter().zip(taken).find(|(_, taken)| !taken) {
            let coupon = Some(holder.coupon);
            return Ok(Some(Difference { coupon, ..campaign.difference(NAME, Mismatch::SeatMissing) }));
        }
        sources.bar.inc(holders.len() as u64);
    }
}

async fn without_coupon(sources: &mut Sources, campaign: &Campaign) -> anyhow::Result<Option<Difference>> {
    let mut cursor = 0;
    loop {
        let seats;
        (cursor, seats) = sources.gates.scan(campaign.id, cursor, SEATS).await?;
        let held = with_coupon(&sources.connections.pool, campaign.id, &seats).await?;
        if let Some(seat) = seats.iter().find(|seat| !held.contains(seat)) {
            let found = Some(Value::Text(seat.to_string()));
            return Ok(Some(Difference { found, ..campaign.difference(NAME, Mismatch::SeatWithoutCoupon) }));
        }
        if cursor == 0 {
            return Ok(None);
        }
    }
}

async fn with_coupon(
    pool: &PgPool,
    campaign: CampaignId,
    seats: &[Seat],
) -> Result<HashSet<Seat>, sqlx::Error> {
    let (users, nths): (Vec<&str>, Vec<i32>) = seats.iter().map(Seat::parts).unzip();
    let issued = store::issued_to(pool, &vec![campaign; seats.len()], &users, &nths).await?;
    Ok(issued.into_iter().map(|(_, user, nth)| Seat::new(user, nth)).collect())
}
