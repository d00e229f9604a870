//! Every seat of the gate against every coupon, a chunk at a time.

use sqlx::PgPool;
use ulid::Ulid;
use uuid::Uuid;

use crate::campaign::CampaignId;
use crate::issue::seats::{Seat, Seats};
use crate::issue::sweeper;

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
) -> anyhow::Result<Option<Ulid>> {
    let mut number = 0;
    loop {
        let rows: Vec<(Uuid, String, i32, i32)> = sqlx::query_as(
            "SELECT id, user_id, nth, number FROM coupons WHERE campaign_id = $1 AND number > $2 ORDER BY number LIMIT $3",
        )
        .bind(Uuid::from(campaign.0))
        .bind(number)
        .bind(CHUNK)
        .fetch_all(pool)
        .await?;
        let Some((_, _, _, last)) = rows.last() else { return Ok(None) };
        number = *last;
        let seats: Vec<Seat> = rows.iter().map(|(_, user, nth, _)| Seat::new(user.as_str(), *nth)).collect();
        let taken = gates.are_taken(campaign, &seats).await?;
        if let Some((row, _)) = rows.iter().zip(taken).find(|(_, taken)| !taken) {
            return Ok(Some(row.0.into()));
        }
        progress(rows.len() as u64);
    }
}
