//! The names of the holders: a seat that is confirmed and has no coupon makes the gate refuse a user who may have one,
//! though the counts agree. A part of all seats is looked at in each round, so that each has its turn.

use futures_util::future::join_all;
use redis::RedisError;

use super::redis::Seats;
use super::settle::{OfCampaign, SweepError, with_coupon};
use crate::campaign::Campaign;
use crate::campaign::sweep;
use crate::ids::CampaignId;
use crate::pool::Pool;

/// Campaigns that are looked at side by side.
const CAMPAIGNS: i64 = 100;
/// Seats of one round, about: 500 in a second, so 100,000 holders take 200 s. Postgres spends 6 us on each.
const SEATS: i64 = 250;

/// How far the look at all seats has come.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// The last campaign whose look has begun.
    after: Option<Campaign>,
    /// Campaigns whose look has not ended, each with the cursor to go on with.
    open: Vec<(CampaignId, u64)>,
}

impl Members {
    /// Looks at the next part. Returns campaigns with a seat that is confirmed and has no coupon.
    pub(super) async fn next(&mut self, seats: &Seats, pool: &Pool) -> Result<Vec<OfCampaign>, SweepError> {
        if self.open.is_empty() {
            let mut campaigns = sweep::live(pool, self.after.as_ref(), CAMPAIGNS).await?.seen;
            self.open = campaigns.iter().map(|seen| (seen.campaign().id, 0)).collect();
            self.after = campaigns.pop().map(|seen| seen.snapshot.campaign);
        }
        let share = SEATS / i64::try_from(self.open.len().max(1)).unwrap_or(SEATS);
        let open = std::mem::take(&mut self.open);
        let looks = open.into_iter().map(|(campaign, cursor)| {
            let mut seats = seats.clone();
            async move { (campaign, seats.scan(campaign, cursor, share).await) }
        });
        let mut found = Vec::new();
        for (campaign, look) in join_all(looks).await {
            // What fails is looked at again when its turn comes; the sweep reports it.
            let Ok((cursor, seats)) = look else { continue };
            if cursor != 0 {
                self.open.push((campaign, cursor));
            }
            if !seats.is_empty() {
                found.push((campaign, seats));
            }
        }
        strangers(seats, pool, found).await
    }
}

/// Seats may have been admitted, committed or released meanwhile, so Postgres is asked again behind Redis.
async fn strangers(
    seats: &Seats,
    pool: &Pool,
    found: Vec<OfCampaign>,
) -> Result<Vec<OfCampaign>, SweepError> {
    let suspects = without_coupon(pool, found).await?;
    let looks = suspects.into_iter().map(|(campaign, suspects)| {
        let mut seats = seats.clone();
        async move { Ok::<_, RedisError>((campaign, seats.confirmed(campaign, &suspects).await?)) }
    });
    let mut confirmed = Vec::new();
    for look in join_all(looks).await {
        match look {
            Ok(of_campaign) => confirmed.push(of_campaign),
            Err(error) if seats.is_of_all(&error) => return Err(error.into()),
            // Looked at again when its turn comes; the sweep reports it.
            Err(_) => {}
        }
    }
    Ok(without_coupon(pool, confirmed).await?)
}

async fn without_coupon(pool: &Pool, found: Vec<OfCampaign>) -> Result<Vec<OfCampaign>, sqlx::Error> {
    if found.iter().all(|(_, seats)| seats.is_empty()) {
        return Ok(Vec::new());
    }
    let held = with_coupon(pool, &found).await?;
    let without = found.into_iter().map(|(campaign, mut seats)| {
        seats.retain(|seat| !held.contains(&(campaign, seat.clone())));
        (campaign, seats)
    });
    Ok(without.filter(|(_, seats)| !seats.is_empty()).collect())
}
