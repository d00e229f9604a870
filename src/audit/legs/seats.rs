//! The search through all seats of a campaign for one that has no coupon, and through all coupons for one that has no
//! seat. Claims may be on their way meanwhile.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::sleep;

use crate::audit::campaigns::Campaign;
use crate::audit::difference::{Difference, LegName, Mismatch};
use crate::audit::sources::Sources;
use crate::audit::value::Value;
use crate::coupon::store::{holders, issued_to};
use crate::gate::seat::Seat;
use crate::ids::CouponId;

/// The name of the gate's leg.
pub(super) const NAME: LegName = LegName::new("gate");

/// Seats compared at a time: one question to Redis and one to Postgres, of some milliseconds each.
const SEATS: i64 = 1_000;
/// What differs must differ in this many looks: a seat whose coupon is committed after its lease is gone for the moment
/// between the sweeper's release and the writer's confirmation.
pub(super) const STANDS_LOOKS: usize = 5;
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The first coupon without a seat, or else the first seat without a coupon.
pub(super) async fn stranger(
    sources: &mut Sources,
    campaign: &Campaign,
) -> anyhow::Result<Option<Difference>> {
    match without_seat(sources, campaign).await? {
        None => without_coupon(sources, campaign).await,
        missing => Ok(missing),
    }
}

/// The first coupon up to the cut that has no seat.
async fn without_seat(sources: &mut Sources, campaign: &Campaign) -> anyhow::Result<Option<Difference>> {
    let mut number = 0;
    while i64::from(number) < campaign.issued {
        let holders = holders(&mut sources.connection, campaign.id, number, SEATS).await?;
        let Some(last) = holders.last() else { break };
        number = last.number;
        let coupons = holders.iter().map(|holder| (holder.coupon, Seat::new(&holder.user_id, holder.nth)));
        let mut missing: Vec<(CouponId, Seat)> = coupons.collect();
        retain_without_seat(sources, campaign, &mut missing).await?;
        for _ in 0..STANDS_LOOKS {
            if missing.is_empty() {
                break;
            }
            sleep(LOOK_INTERVAL).await;
            retain_without_seat(sources, campaign, &mut missing).await?;
        }
        if let Some((coupon, _)) = missing.first() {
            let coupon = Some(*coupon);
            return Ok(Some(Difference { coupon, ..campaign.difference(NAME, Mismatch::SeatMissing) }));
        }
        sources.bar.inc(holders.len() as u64);
    }
    Ok(None)
}

/// Keeps those whose seats are not taken. None, if the gate is not loaded any more.
async fn retain_without_seat(
    sources: &mut Sources,
    campaign: &Campaign,
    coupons: &mut Vec<(CouponId, Seat)>,
) -> anyhow::Result<()> {
    let seats: Vec<Seat> = coupons.iter().map(|(_, seat)| seat.clone()).collect();
    let taken = sources.gates.are_taken(campaign.id, &seats).await?;
    if sources.gates.count(campaign.id).await?.is_none() {
        coupons.clear();
    }
    let mut taken = taken.into_iter();
    coupons.retain(|_| taken.next() == Some(false));
    Ok(())
}

/// A seat without a coupon is on its way while it is pending. A coupon is committed before its seat is confirmed.
async fn without_coupon(sources: &mut Sources, campaign: &Campaign) -> anyhow::Result<Option<Difference>> {
    let mut cursor = 0;
    loop {
        let mut seats;
        (cursor, seats) = sources.gates.scan(campaign.id, cursor, SEATS).await?;
        retain_without_coupon(sources, campaign, &mut seats).await?;
        for look in 0..STANDS_LOOKS {
            if seats.is_empty() {
                break;
            }
            if look > 0 {
                sleep(LOOK_INTERVAL).await;
            }
            let taken = sources.gates.are_taken(campaign.id, &seats).await?;
            let pending = sources.gates.pending(campaign.id).await?.unwrap_or_default().1;
            let pending: HashSet<Seat> = pending.into_iter().map(|(seat, _)| seat).collect();
            let mut taken = taken.into_iter();
            seats.retain(|seat| taken.next() == Some(true) && !pending.contains(seat));
            retain_without_coupon(sources, campaign, &mut seats).await?;
        }
        if let Some(seat) = seats.first() {
            let found = Some(Value::Text(seat.to_string()));
            return Ok(Some(Difference { found, ..campaign.difference(NAME, Mismatch::SeatWithoutCoupon) }));
        }
        if cursor == 0 {
            return Ok(None);
        }
    }
}

async fn retain_without_coupon(
    sources: &mut Sources,
    campaign: &Campaign,
    seats: &mut Vec<Seat>,
) -> Result<(), sqlx::Error> {
    let (users, nths): (Vec<&str>, Vec<i32>) = seats.iter().map(Seat::parts).unzip();
    let issued = issued_to(&mut sources.connection, &vec![campaign.id; seats.len()], &users, &nths).await?;
    let held: HashSet<Seat> = issued.into_iter().map(|(_, user, nth)| Seat::new(user, nth)).collect();
    seats.retain(|seat| !held.contains(seat));
    Ok(())
}
