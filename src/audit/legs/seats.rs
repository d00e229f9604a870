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

/// Of the coupons up to the cut.
async fn without_seat(sources: &mut Sources, campaign: &Campaign) -> anyhow::Result<Option<Difference>> {
    let mut number = 0;
    while i64::from(number) < campaign.issued {
        let holders = holders(&mut sources.connection, campaign.id, number, SEATS).await?;
        let Some(last) = holders.last() else { break };
        number = last.number;
        let seats: Vec<Seat> = holders.iter().map(|holder| Seat::new(&holder.user_id, holder.nth)).collect();
        let taken = sources.gates.are_taken(campaign.id, &seats).await?;
        for ((holder, seat), _) in holders.iter().zip(&seats).zip(taken).filter(|(_, taken)| !taken) {
            if stays_away(sources, campaign, seat).await? {
                let coupon = Some(holder.coupon);
                return Ok(Some(Difference { coupon, ..campaign.difference(NAME, Mismatch::SeatMissing) }));
            }
        }
        sources.bar.inc(holders.len() as u64);
    }
    Ok(None)
}

/// Whether a seat is not taken in any of some looks at a gate that is loaded.
async fn stays_away(sources: &mut Sources, campaign: &Campaign, seat: &Seat) -> anyhow::Result<bool> {
    for _ in 0..STANDS_LOOKS {
        sleep(LOOK_INTERVAL).await;
        let loaded = sources.gates.count(campaign.id).await?.is_some();
        let taken = sources.gates.are_taken(campaign.id, std::slice::from_ref(seat)).await?;
        if !loaded || taken != [false] {
            return Ok(false);
        }
    }
    Ok(true)
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
