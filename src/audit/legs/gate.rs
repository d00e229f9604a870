//! The gate: a seat for every coupon, a coupon for every seat, and the campaign as Postgres has it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use outbox_relay::in_time::{InTime as _, SCAN_TIMEOUT};
use sqlx::FromRow;
use tokio::time::{Instant, sleep};

use super::seats::{self, LOOK_INTERVAL, NAME, STANDS_LOOKS};
use crate::audit::campaigns::{Campaign, unreadable};
use crate::audit::difference::{Difference, LegName, Mismatch};
use crate::audit::leg::{Asking, Field, Leg, Look};
use crate::audit::sources::Sources;
use crate::audit::value::Value;
use crate::campaign::store::Snapshot;
use crate::campaign::sweep::{self, Chunk};
use crate::coupon::store::{self, issued_of};
use crate::gate::record::{FieldDifference, LEASE};
use crate::gate::seat::Seat;
use crate::gate::walk::SWEPT_AFTER_CLOSE;
use crate::ids::CampaignId;

/// Looks at the seats of one campaign, at most, until no seat is taken, and its coupon committed, within one look. A look
/// takes some milliseconds, as a claim does.
const LOOKS_MAX: usize = 100;
/// A seat that is pending for longer is a difference: its lease, and time for a sweeper on a busy machine to settle it.
const PENDING_MAX: Duration = LEASE.saturating_mul(3);
const PENDING_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The campaigns whose gate is loaded.
#[derive(Debug, Default)]
pub(super) struct Gate(HashMap<CampaignId, Seats>);

#[derive(Clone, Debug)]
struct Seats {
    confirmed: i64,
    pending: i64,
    /// The first field that decides who gets a coupon, and differs.
    field: Option<FieldDifference>,
    difference: Option<Difference>,
}

impl Leg for Gate {
    fn name(&self) -> LegName {
        NAME
    }

    fn quick<'a>(
        &'a mut self,
        sources: &'a mut Sources,
        campaigns: &'a [Campaign],
        _: Look,
    ) -> Asking<'a, ()> {
        Box::pin(async move {
            let ids: Vec<CampaignId> = campaigns.iter().map(|campaign| campaign.id).collect();
            let records = sources.gates.records(&ids).await;
            for (campaign, record) in campaigns.iter().zip(records) {
                match record {
                    Ok(Some(record)) => {
                        let (confirmed, pending) = (record.confirmed(), record.pending);
                        let seats = Seats { confirmed, pending, field: None, difference: None };
                        self.0.insert(campaign.id, seats);
                        sources.bar.inc_length(campaign.issued.unsigned_abs());
                    }
                    Ok(None) => {}
                    Err(error) => sources.fail(format_args!("the gate of campaign {}", campaign.id), error),
                }
            }
            let loaded = ids.into_iter().filter(|id| self.0.contains_key(id)).collect();
            let mut fields = fields_of(sources, loaded).await?;
            for (id, seats) in &mut self.0 {
                seats.field = fields.differ.remove(id);
            }
            for (id, reason) in fields.unreadable {
                if let Some(seats) = self.0.get_mut(&id) {
                    seats.difference = Some(unreadable(NAME, id, &reason));
                }
            }
            Ok(())
        })
    }

    /// A gate takes every seat before its coupon, and confirms none before: the coupons are between the seats that are
    /// confirmed and those that are taken.
    fn judge<'a>(
        &'a mut self,
        sources: &'a mut Sources,
        campaigns: &'a [Campaign],
        look: Look,
    ) -> Asking<'a, ()> {
        Box::pin(async move {
            for campaign in campaigns {
                let seats = self.0.get_mut(&campaign.id).filter(|seats| seats.difference.is_none());
                let Some(seats) = seats else { continue };
                if let Some(field) = stands(sources, campaign, seats.field.take(), look).await? {
                    seats.difference = Some(wrong_field(campaign, field));
                    continue;
                }
                let Seats { confirmed, pending, .. } = *seats;
                if campaign.rested() && (confirmed, pending) == (campaign.issued, 0) {
                    continue;
                }
                let bounds = (campaign.issued - pending)..=campaign.issued_after;
                seats.difference = match look {
                    Look::Brief if bounds.contains(&confirmed) => None,
                    Look::Brief => Some(unequal(campaign, campaign.issued_after, (confirmed, pending))),
                    Look::Patient => closer(sources, campaign).await?,
                };
            }
            Ok(())
        })
    }

    fn figures(&self, campaign: &Campaign) -> Option<Difference> {
        self.0.get(&campaign.id)?.difference.clone()
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
            seats::stranger(sources, campaign).await
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

/// What Postgres says about gates.
struct Fields {
    /// The first deciding field of a gate that differs from it.
    differ: HashMap<CampaignId, FieldDifference>,
    /// Campaigns of which it cannot be read.
    unreadable: Vec<(CampaignId, sqlx::Error)>,
}

async fn fields_of(sources: &mut Sources, ids: Vec<CampaignId>) -> anyhow::Result<Fields> {
    let records = sources.gates.records(&ids).await;
    let chunk = sweep::chunk_of_ids(&mut sources.connection, &ids).within(SCAN_TIMEOUT).await?;
    let Chunk { seen, unreadable } = chunk;
    let seen: HashMap<CampaignId, Snapshot> =
        seen.into_iter().map(|seen| (seen.snapshot.campaign.id, seen.snapshot)).collect();
    let mut differ = HashMap::new();
    for (id, record) in ids.into_iter().zip(records) {
        // The gate of a campaign that is over is not asked any more, and nobody keeps it up to date.
        let snapshot = seen.get(&id).filter(|snapshot| !snapshot.is_over_for(SWEPT_AFTER_CLOSE));
        let (Ok(Some(record)), Some(snapshot)) = (record, snapshot) else { continue };
        if let Some(field) = record.differs(&snapshot.campaign) {
            differ.insert(id, field);
        }
    }
    Ok(Fields { differ, unreadable })
}

/// The field that differs, if one still does after some looks: a campaign that was just changed may not have told its
/// gate yet. A brief look leaves that to the next round.
async fn stands(
    sources: &mut Sources,
    campaign: &Campaign,
    mut field: Option<FieldDifference>,
    look: Look,
) -> anyhow::Result<Option<FieldDifference>> {
    for _ in 0..STANDS_LOOKS {
        if field.is_none() || look == Look::Brief {
            break;
        }
        sleep(LOOK_INTERVAL).await;
        field = fields_of(sources, vec![campaign.id]).await?.differ.remove(&campaign.id);
    }
    Ok(field)
}

fn wrong_field(
    campaign: &Campaign,
    FieldDifference { field, expected, found }: FieldDifference,
) -> Difference {
    Difference {
        expected: Some(Value::Text(expected)),
        found: found.map(Value::Text),
        ..campaign.difference(NAME, Mismatch::GateField { field })
    }
}

/// A number of confirmed seats that is not that of the coupons.
fn unequal(campaign: &Campaign, coupons: i64, (confirmed, pending): (i64, i64)) -> Difference {
    Difference {
        expected: Some(coupons.into()),
        found: Some(confirmed.into()),
        ..campaign.difference(NAME, Mismatch::Seats { pending })
    }
}

/// Waits for the seats that are pending, then looks until the figures of a look are of one moment. If they never are, all
/// seats are searched.
async fn closer(sources: &mut Sources, campaign: &Campaign) -> anyhow::Result<Option<Difference>> {
    let mut found = unsettled(sources, campaign).await?;
    let mut stands = 0;
    for _ in 0..LOOKS_MAX {
        if found.is_some() {
            return Ok(found);
        }
        let before = store::issued(&mut sources.connection, campaign.id).await?;
        let Some((taken, pending)) = sources.gates.pending(campaign.id).await? else { return Ok(None) };
        let Coupons { issued, of_pending, new_of_pending } =
            coupons(sources, campaign, &pending, before).await?;
        // A new coupon whose seat was not pending: the seat was confirmed just before, or taken just after.
        let unclear = issued - i64::from(before) - new_of_pending;
        let pending = pending.len() as i64;
        let (confirmed, most) = (taken - pending, issued - of_pending);
        if !(most - unclear..=most).contains(&confirmed) {
            stands += 1;
            found = (stands == STANDS_LOOKS).then(|| unequal(campaign, issued, (confirmed, pending)));
            sleep(LOOK_INTERVAL).await;
        } else if unclear == 0 {
            return Ok(None);
        }
    }
    seats::stranger(sources, campaign).await
}

/// Waits until no seat is pending any more of those that are now. Returns a difference if one stays pending.
async fn unsettled(sources: &mut Sources, campaign: &Campaign) -> anyhow::Result<Option<Difference>> {
    let deadline = Instant::now() + PENDING_MAX;
    let mut waited_for: Option<HashSet<(Seat, i64)>> = None; // a seat that is taken again has another deadline
    loop {
        let Some((taken, pending)) = sources.gates.pending(campaign.id).await? else { return Ok(None) };
        let count = pending.len() as i64;
        let still =
            pending.into_iter().filter(|seat| waited_for.as_ref().is_none_or(|all| all.contains(seat)));
        let still: HashSet<(Seat, i64)> = still.collect();
        if still.is_empty() {
            return Ok(None);
        }
        if Instant::now() > deadline {
            return Ok(Some(unequal(campaign, campaign.issued_after, (taken - count, count))));
        }
        waited_for = Some(still);
        sleep(PENDING_CHECK_INTERVAL).await;
    }
}

/// The coupons of a campaign, after its seats were counted.
#[derive(Debug, FromRow)]
struct Coupons {
    issued: i64,
    /// For pending seats.
    of_pending: i64,
    /// For pending seats, and issued since the look began.
    new_of_pending: i64,
}

/// Counts the coupons of a campaign, where there were `before` when the look began.
async fn coupons(
    sources: &mut Sources,
    campaign: &Campaign,
    pending: &[(Seat, i64)],
    before: i32,
) -> Result<Coupons, sqlx::Error> {
    let (users, nths): (Vec<&str>, Vec<i32>) = pending.iter().map(|(seat, _)| seat.parts()).unzip();
    sqlx::query_as(concat!(
        "SELECT ",
        issued_of!("$1"),
        "::bigint AS issued, count(*) AS of_pending, count(*) FILTER (WHERE number > $4) AS new_of_pending \
         FROM unnest($2::text[], $3::int[]) AS s (user_id, nth) JOIN coupons USING (user_id, nth) \
         WHERE campaign_id = $1"
    ))
    .bind(campaign.id)
    .bind(users)
    .bind(nths)
    .bind(before)
    .fetch_one(&mut sources.connection)
    .within(SCAN_TIMEOUT)
    .await
}
