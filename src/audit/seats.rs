//! Every seat of the gate against every coupon, a chunk at a time.

use sqlx::PgPool;

use crate::coupon;
use crate::gate::redis::Seats;
use crate::gate::seat::Seat;
use crate::gate::sweeper;
use crate::ids::{CampaignId, CouponId};

/// Seats compared at a time.
const CHUNK: i64 = 1_000;

/// The first coupon without a seat, or seat without a coupon. `progress` is told of coupons.
pub(super) async fn first_difference(
    pool: &PgPool,
    gates: &mut Seats,
    campaign: CampaignId,
    progress: impl FnMut(u64),
) -> anyhow::Result<Option<String>> {
    if let Some(coupon) = without_seat(pool, gates, campaign, progress).await? {
        return Ok(Some(format!("coupon {coupon} has no seat")));
    }
    let mut cursor = 0;
    loop {
        let seats;
        (cursor, seats) = gates.scan(campaign, cursor, CHUNK).await?;
        let held = sweeper::with_coupon(pool, campaign, &seats).await?;
        if let Some(seat) = seats.iter().find(|seat| !held.contains(seat)) {
            return Ok(Some(format!("seat {seat} has no coupon")));
        }
        if cursor == 0 {
            return Ok(None);
        }
    }
}

/// The first coupon whose holder has no seat in the gate.
async fn without_seat(
    pool: &PgPool,
    gates: &mut Seats,
    campaign: CampaignId,
    mut progress: impl FnMut(u64),
) -> anyhow::Result<Option<CouponId>> {
    let mut number = 0;
    loop {
        let holders = coupon::store::holders(pool, campaign, number, CHUNK).await?;
        let Some(last) = holders.last() else { return Ok(None) };
        number = last.number;
        let seats: Vec<Seat> = holders.iter().map(|holder| Seat::new(&holder.user_id, holder.nth)).collect();
        let taken = gates.are_taken(campaign, &seats).await?;
        if let Some((holder, _)) = holders.iter().zip(taken).find(|(_, taken)| !taken) {
            return Ok(Some(holder.coupon));
        }
        progress(holders.len() as u64);
    }
}
