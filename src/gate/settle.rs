//! Seats past their deadline: those with a coupon are confirmed, the others go back on sale. A coupon that is
//! committed later is confirmed by its writer, or refused by Postgres.

use std::collections::HashSet;

use futures_util::future::join_all;
use outbox_relay::sqlstate::is_away;
use outbox_relay::zoo;
use redis::RedisError;

use super::connection::is_outage;
use super::redis::Seats;
use super::seat::Seat;
use crate::coupon::store;
use crate::failpoint;
use crate::ids::CampaignId;
use crate::pool::Pool;
use crate::storage::prepared;

/// Seats of one campaign that are settled at a time.
const BATCH: usize = 1_000;
/// Times that a campaign with more of them is returned to in one round. Then the others have their turn.
const PASSES_MAX: usize = 10;

/// Why a round was cut short. The next one goes on behind it.
#[derive(Debug, thiserror::Error)]
pub(super) enum SweepError {
    #[error("read campaigns and coupons")]
    Database(#[from] sqlx::Error),
    #[error("settle seats")]
    Gate(#[from] RedisError),
}

impl SweepError {
    /// Whether a server is away, of which the writers and the worker of the gate tell in the log.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Database(error) => is_away(error),
            Self::Gate(error) => is_outage(error),
        }
    }
}

/// A campaign with a failure that concerns it alone.
pub(super) type Failed = (CampaignId, RedisError);

/// The seats of one campaign.
pub(super) type OfCampaign = (CampaignId, Vec<Seat>);

/// Settles the seats of these campaigns, side by side. Returns the failures of single campaigns.
pub(super) async fn overdue(
    seats: &Seats,
    pool: &Pool,
    mut campaigns: Vec<CampaignId>,
) -> Result<Vec<Failed>, SweepError> {
    let mut failed = Vec::new();
    for _ in 0..PASSES_MAX {
        let listed = join_all(campaigns.iter().map(|campaign| list(seats, *campaign))).await;
        let overdue = sort_out(listed, &mut failed);
        if overdue.is_empty() {
            break;
        }
        failpoint::reached("sweeper.found").await;
        let held = with_coupon(pool, &overdue).await?;
        failpoint::reached("sweeper.asked").await;
        // A full batch: there may be more.
        campaigns = overdue.iter().filter(|(_, seats)| seats.len() >= BATCH).map(|(id, _)| *id).collect();
        let settled = overdue.into_iter().map(|overdue| settle(seats, overdue, &held));
        sort_out(join_all(settled).await, &mut failed);
        if campaigns.is_empty() {
            break;
        }
    }
    Ok(failed)
}

/// Which of these seats have a coupon.
pub(super) async fn with_coupon(
    pool: &Pool,
    of_campaigns: &[OfCampaign],
) -> Result<HashSet<(CampaignId, Seat)>, sqlx::Error> {
    let (mut campaigns, mut users, mut nths) = (Vec::new(), Vec::new(), Vec::new());
    for (campaign, seats) in of_campaigns {
        for (user, nth) in seats.iter().map(Seat::parts) {
            campaigns.push(*campaign);
            users.push(user);
            nths.push(nth);
        }
    }
    let issued = issued_to(pool, &campaigns, &users, &nths).await?;
    Ok(issued.into_iter().map(|(campaign, user, nth)| (campaign, Seat::new(user, nth))).collect())
}

async fn issued_to(
    pool: &Pool,
    campaigns: &[CampaignId],
    users: &[&str],
    nths: &[i32],
) -> Result<Vec<(CampaignId, String, i32)>, sqlx::Error> {
    prepared!(pool, |connection| store::issued_to(connection, campaigns, users, nths))
}

async fn list(seats: &Seats, campaign: CampaignId) -> Result<OfCampaign, Failed> {
    let listed = seats.clone().overdue(campaign, BATCH).await;
    listed.map(|overdue| (campaign, overdue)).map_err(|error| (campaign, error))
}

/// Those that have seats; the others are done, or have failed.
fn sort_out(results: Vec<Result<OfCampaign, Failed>>, failed: &mut Vec<Failed>) -> Vec<OfCampaign> {
    let mut found = Vec::new();
    for result in results {
        match result {
            Ok((_, seats)) if seats.is_empty() => {}
            Ok(of_campaign) => found.push(of_campaign),
            Err(failure) => failed.push(failure),
        }
    }
    found
}

async fn settle(
    seats: &Seats,
    (campaign, overdue): OfCampaign,
    held: &HashSet<(CampaignId, Seat)>,
) -> Result<OfCampaign, Failed> {
    let of_campaign = |error| (campaign, error);
    let mut seats = seats.clone();
    let has_coupon = |seat: &Seat| held.contains(&(campaign, seat.clone()));
    let (confirmed, released): (Vec<_>, Vec<_>) =
        overdue.into_iter().partition(|seat| has_coupon(seat) && !zoo::has("sweeper-does-not-ask"));
    if !confirmed.is_empty() {
        seats.confirm(campaign, &confirmed).await.map_err(of_campaign)?;
        failpoint::reached("sweeper.confirmed").await;
    }
    if !released.is_empty() {
        let count = seats.release(campaign, &released).await.map_err(of_campaign)?;
        failpoint::reached("sweeper.released").await;
        tracing::info!(%campaign, count, "seats are back on sale: their claims were not committed in time");
    }
    Ok((campaign, Vec::new()))
}
