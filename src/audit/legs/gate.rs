//! The gate: a seat for every coupon, and a coupon for every seat.

use std::collections::{HashMap, HashSet};

use crate::audit::campaigns::{Campaign, Campaigns};
use crate::audit::difference::{Difference, LegName, Mismatch};
use crate::audit::leg::{Asking, Field, Leg, Moment};
use crate::audit::sources::Sources;
use crate::audit::value::Value;
use crate::coupon::store;
use crate::gate::seat::Seat;
use crate::ids::CampaignId;
use crate::pool::Pool;

pub(in crate::audit) const NAME: LegName = LegName::new("gate");

/// Seats compared at a time: one question to Redis and one to Postgres, of some milliseconds each.
const SEATS: i64 = 1_000;

/// Seats of the campaigns whose gate is loaded.
#[derive(Debug, Default)]
pub(super) struct Gate(HashMap<CampaignId, Seats>);

#[derive(Clone, Copy, Debug)]
struct Seats {
    confirmed: i64,
    pending: i64,
}

impl Leg for Gate {
    fn name(&self) -> LegName {
        NAME
    }

    fn quick<'a>(&'a mut self, sources: &'a mut Sources, campaigns: &'a mut Campaigns) -> Asking<'a, ()> {
        Box::pin(async move {
            for campaign in &campaigns.list {
                if let Some((taken, pending)) = sources.gates.count(campaign.id).await? {
                    self.0.insert(campaign.id, Seats { confirmed: taken - pending, pending });
                    sources.bar.inc_length(campaign.issued.unsigned_abs());
                }
            }
            Ok(())
        })
    }

    /// A gate takes every seat before its coupon, and confirms none before: with claims on their way, the coupons
    /// are between the seats that are confirmed and those that are taken.
    fn figures(&self, campaign: &Campaign, moment: Moment) -> Option<Difference> {
        let Seats { confirmed, pending } = *self.0.get(&campaign.id)?;
        let issued = campaign.issued;
        let agrees = match moment {
            Moment::AtRest => confirmed == issued && pending == 0,
            Moment::UnderWay => (confirmed..=confirmed + pending).contains(&issued),
        };
        (!agrees).then(|| Difference {
            expected: Some(issued.into()),
            found: Some(confirmed.into()),
            ..campaign.difference(NAME, Mismatch::Seats { pending })
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
        self.0.get(&campaign.id).map(|seats| seats.confirmed)
    }

    fn fields(&self, campaign: &Campaign) -> Vec<Field> {
        let pending = self.0.get(&campaign.id).map_or(0, |seats| seats.pending);
        vec![("gate", self.printed(campaign).map(Value::from)), ("pending", Some(pending.into()))]
    }
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
    pool: &Pool,
    campaign: CampaignId,
    seats: &[Seat],
) -> Result<HashSet<Seat>, sqlx::Error> {
    let (users, nths): (Vec<&str>, Vec<i32>) = seats.iter().map(Seat::parts).unzip();
    let issued = store::issued_to(pool, campaign, &users, &nths).await?;
    Ok(issued.iter().map(|(user, nth)| Seat::new(user.as_str(), *nth)).collect())
}
