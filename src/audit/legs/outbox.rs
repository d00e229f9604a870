//! The outbox: one event for every coupon, with its data.

use std::collections::HashMap;

use outbox_relay::Shard;
use outbox_relay::event::StoredEvent;
use outbox_relay::in_time::{InTime as _, SCAN_TIMEOUT};
use outbox_relay::strict::{from_object, id_of};
use sqlx::PgConnection;

use super::serials::Serials;
use crate::audit::campaigns::{Campaign, Campaigns, States};
use crate::audit::chunk::{Chunk, CouponRow};
use crate::audit::difference::{Difference, LegName, Mismatch};
use crate::audit::leg::{Asking, Field, Leg, Unannounced};
use crate::audit::value::Value;
use crate::event::{ISSUED, Issued};
use crate::ids::{CampaignId, CouponId};

pub(in crate::audit) const NAME: LegName = LegName::new("outbox");

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Rows that announce a coupon, in a full audit.
    counted: Option<HashMap<CampaignId, i64>>,
    /// Numbers of the coupons that were announced, by the batches so far: a bit for each.
    announced: HashMap<CampaignId, Serials>,
}

impl Leg for Outbox {
    fn name(&self) -> LegName {
        NAME
    }

    fn count<'a>(
        &'a mut self,
        snapshot: &'a mut PgConnection,
        campaigns: &'a mut Campaigns,
    ) -> Asking<'a, Option<Difference>> {
        Box::pin(async move {
            let counts: Vec<(String, i64)> = sqlx::query_as(
                "SELECT key, count(*) FROM outbox WHERE type = $2 AND ($1::text IS NULL OR key = $1) GROUP BY 1",
            )
            .bind(campaigns.only.map(|id| id.to_string()))
            .bind(ISSUED)
            .fetch_all(&mut *snapshot)
            .within(SCAN_TIMEOUT)
            .await?;
            let counted = counts.into_iter().map(|(key, count)| (campaign_of(&key), count));
            let counted = self.counted.insert(counted.collect());
            Ok(campaigns.unknown(snapshot, NAME, counted.keys().copied()).await?)
        })
    }

    /// Old events leave the outbox, and their coupons stay.
    fn figures(&self, campaign: &Campaign) -> Option<Difference> {
        let (rows, coupons) = (self.printed(campaign)?, campaign.states.as_ref().map(States::all)?);
        let expected = if campaign.outbox_is_whole { coupons } else { rows.min(coupons) };
        campaign.unequal(NAME, Mismatch::Rows, expected, rows)
    }

    fn batch<'a>(&'a mut self, _: &'a mut PgConnection, chunk: &'a Chunk) -> Asking<'a, Vec<Difference>> {
        let coupons: HashMap<CouponId, &CouponRow> =
            chunk.coupons.iter().map(|coupon| (coupon.id, coupon)).collect();
        let issues = chunk.events.iter().filter(|event| event.kind == ISSUED);
        let found = issues.filter_map(|event| self.compare(event, &coupons)).collect();
        Box::pin(async { Ok(found) })
    }

    /// Only the oldest events leave the outbox: the coupons of which none told are those before the first.
    fn unannounced(&mut self, campaign: &Campaign) -> Unannounced {
        let announced = self.announced.remove(&campaign.id).unwrap_or_default();
        let last = i32::try_from(campaign.issued).unwrap_or(i32::MAX);
        let gone = || announced.first().map_or(last, |first| first - 1);
        let until = if campaign.outbox_is_whole { 0 } else { gone() };
        let difference = announced.first_gap(until, last).map(|number| Difference {
            expected: Some(number.into()),
            ..campaign.difference(NAME, Mismatch::NotAnnounced)
        });
        Unannounced { until, difference }
    }

    fn printed(&self, campaign: &Campaign) -> Option<i64> {
        Some(self.counted.as_ref()?.get(&campaign.id).copied().unwrap_or_default())
    }

    fn fields(&self, campaign: &Campaign) -> Vec<Field> {
        self.printed(campaign).map(|rows| ("outbox", Some(Value::from(rows)))).into_iter().collect()
    }
}

impl Outbox {
    /// An event that announces a coupon, against that coupon.
    fn compare(
        &mut self,
        event: &StoredEvent,
        coupons: &HashMap<CouponId, &CouponRow>,
    ) -> Option<Difference> {
        let id = id_of(&event.subject).map(CouponId);
        let campaign = campaign_of(&event.key);
        let mismatch = match id.and_then(|id| coupons.get(&id)) {
            None => Mismatch::AnnouncedWithoutCoupon,
            Some(coupon) if !announces(event, coupon) => Mismatch::AnnouncedWithOtherData,
            Some(coupon) if !self.announced.entry(campaign).or_default().insert(coupon.number) => {
                Mismatch::AnnouncedTwice
            }
            Some(_) => return None,
        };
        Some(Difference {
            shard: Some(event.shard),
            campaign: Some(campaign),
            coupon: id,
            position: Some(event.position),
            found: id.is_none().then(|| Value::Text(event.subject.clone())),
            ..Difference::new(NAME, mismatch)
        })
    }
}

/// The number of coupons of each campaign that the events of a shard behind position `after` announce: those that a side
/// which has come as far as `after` cannot have yet.
pub(super) async fn late(
    connection: &mut PgConnection,
    shard: Shard,
    after: i64,
) -> Result<HashMap<CampaignId, i64>, sqlx::Error> {
    let statement =
        "SELECT key, count(*) FROM outbox WHERE shard = $1 AND position > $2 AND type = $3 GROUP BY 1";
    let late = sqlx::query_as(statement)
        .bind(shard)
        .bind(after)
        .bind(ISSUED)
        .fetch_all(connection)
        .within(SCAN_TIMEOUT)
        .await?;
    Ok(late.into_iter().map(|(key, count): (String, i64)| (campaign_of(&key), count)).collect())
}

/// The campaign of an event's key. A key that is no ULID is of a campaign that does not exist: the one of zeros.
fn campaign_of(key: &str) -> CampaignId {
    CampaignId(id_of(key).unwrap_or_default())
}

/// Whether the event has the data of the coupon.
fn announces(event: &StoredEvent, coupon: &CouponRow) -> bool {
    let Ok(issued) = from_object::<Issued<'_>>(event.data.as_bytes()) else { return false };
    let CouponRow { id, campaign_id, user_id, number, state: _, issued_at, expires_at } = coupon;
    (
        issued.coupon_id,
        issued.campaign_id,
        &*issued.user_id,
        issued.number,
        issued.issued_at,
        issued.expires_at,
    ) == (*id, *campaign_id, &**user_id, *number, *issued_at, *expires_at)
        && event.key == campaign_id.to_string()
        && event.subject == id.to_string()
}
