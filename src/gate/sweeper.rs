//! The sweeper: settles seats past their deadline, brings gates up to date that missed a change, reloads gates that
//! contradict Postgres, and opens and closes campaigns whose time has come. Every process may run one: each of its
//! steps can be repeated.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use outbox_relay::zoo;
use redis::{Client, RedisError};
use tokio::time::{MissedTickBehavior, interval};

use super::loader::{self, LoadError};
use super::redis::{GRACE, Seats};
use super::seat::Seat;
use crate::campaign::Campaign;
use crate::campaign::change::{self, ChangeError};
use crate::campaign::store::{self, Standing};
use crate::ids::CampaignId;
use crate::pool::Pool;
use crate::{coupon, failpoint};

/// From the start of one round to the start of the next, at least.
const INTERVAL: Duration = Duration::from_millis(500);
/// The time between two reloads of a gate that contradicts Postgres, at least: a large one takes its time.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// How long a campaign is swept after it has closed: long after the last lease. The first round goes back as far as
/// gates are kept, since seats may have been left pending while no process ran.
const SWEPT_AFTER_CLOSE: time::Duration = time::Duration::hours(1);
/// Seats that are settled at a time.
const BATCH: usize = 1_000;
/// For one call to Redis.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a round was cut short. The next one starts from the beginning.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("bring campaigns up to date")]
    Change(#[from] ChangeError),
    #[error("settle seats")]
    Seats(#[from] LoadError),
}

impl From<RedisError> for SweepError {
    fn from(error: RedisError) -> Self {
        Self::Seats(error.into())
    }
}

impl From<sqlx::Error> for SweepError {
    fn from(error: sqlx::Error) -> Self {
        Self::Seats(error.into())
    }
}

/// Sweeps until it is dropped.
pub async fn run(client: Client, pool: Pool) -> Infallible {
    let mut sweeper = Sweeper { client, pool, seats: None, over: GRACE, reloads: HashMap::new() };
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = false;
    loop {
        ticks.tick().await;
        let result = sweeper.round().await;
        if let Err(error) = &result
            && !failed
        {
            tracing::warn!(error = error as &dyn std::error::Error, "sweeping fails");
        }
        failed = result.is_err();
    }
}

struct Sweeper {
    client: Client,
    pool: Pool,
    /// Kept from round to round; a round that fails drops it.
    seats: Option<Seats>,
    /// How long after their end campaigns are swept in the next round.
    over: time::Duration,
    /// When gates that contradicted Postgres were last loaded.
    reloads: HashMap<CampaignId, Instant>,
}

impl Sweeper {
    async fn round(&mut self) -> Result<(), SweepError> {
        change::bring_up_to_date(&self.pool).await?;
        self.reloads.retain(|_, at| at.elapsed() < RELOAD_INTERVAL);
        let mut seats = match self.seats.take() {
            Some(seats) => seats,
            None => Seats::connect(&self.client, RESPONSE_TIMEOUT).await?,
        };
        for standing in store::live(&self.pool, self.over).await? {
            self.sweep(&mut seats, &standing).await?;
        }
        self.seats = Some(seats);
        self.over = SWEPT_AFTER_CLOSE;
        Ok(())
    }

    async fn sweep(
        &mut self,
        seats: &mut Seats,
        Standing { campaign, issued, .. }: &Standing,
    ) -> Result<(), SweepError> {
        catch_up(seats, campaign).await?;
        settle_overdue(seats, &self.pool, campaign.id).await?;
        if !self.reloads.contains_key(&campaign.id)
            && let Some(wrong) = contradiction(seats, &self.pool, campaign.id, (*issued).into()).await?
        {
            self.reloads.insert(campaign.id, Instant::now());
            tracing::warn!(campaign = %campaign.id, "the gate is reloaded: {wrong}");
            loader::load(seats, &self.pool, campaign.id).await?;
        }
        Ok(())
    }
}

/// Brings a gate up to date that has an older version of its campaign.
async fn catch_up(seats: &mut Seats, campaign: &Campaign) -> Result<(), RedisError> {
    if seats.version(campaign.id).await?.is_some_and(|version| version < campaign.version) {
        seats.set(campaign).await?;
    }
    Ok(())
}

/// Seats past their deadline: those with a coupon are confirmed, the others go back on sale. A coupon that is
/// committed later is confirmed by its writer, or refused by Postgres.
async fn settle_overdue(seats: &mut Seats, pool: &Pool, campaign: CampaignId) -> Result<(), SweepError> {
    loop {
        let overdue = seats.overdue(campaign, BATCH).await?;
        if overdue.is_empty() {
            return Ok(());
        }
        failpoint::reached("sweeper.found").await;
        let held = with_coupon(pool, campaign, &overdue).await?;
        failpoint::reached("sweeper.asked").await;
        let (confirmed, released): (Vec<_>, Vec<_>) =
            overdue.into_iter().partition(|seat| held.contains(seat) && !zoo::has("sweeper-does-not-ask"));
        if !confirmed.is_empty() {
            seats.confirm(campaign, &confirmed).await?;
            failpoint::reached("sweeper.confirmed").await;
        }
        if !released.is_empty() {
            let count = seats.release(campaign, &released).await?;
            failpoint::reached("sweeper.released").await;
            tracing::info!(%campaign, count, "seats are back on sale: their claims were not committed in time");
        }
    }
}

/// In what a gate contradicts Postgres, where `issued` coupons were counted before. A seat is taken before its
/// coupon is committed, and confirmed after it.
async fn contradiction(
    seats: &mut Seats,
    pool: &Pool,
    campaign: CampaignId,
    issued: i64,
) -> Result<Option<String>, SweepError> {
    let Some((taken, pending)) = seats.count(campaign).await? else { return Ok(None) };
    if taken < issued {
        return Ok(Some(format!("it has forgotten seats: {taken} are taken, {issued} coupons are issued")));
    }
    let confirmed = taken - pending;
    if confirmed <= issued {
        return Ok(None);
    }
    // More were issued since then, or the gate knows coupons that the database has lost.
    let issued: i64 = coupon::store::issued(pool, campaign).await?.into();
    let contradicts = confirmed > issued;
    Ok(contradicts.then(|| format!("{confirmed} seats are confirmed, {issued} coupons are issued")))
}

/// Which of these seats have a coupon.
pub(crate) async fn with_coupon(
    pool: &Pool,
    campaign: CampaignId,
    seats: &[Seat],
) -> Result<HashSet<Seat>, sqlx::Error> {
    let (users, nths): (Vec<&str>, Vec<i32>) = seats.iter().map(Seat::parts).unzip();
    let issued = coupon::store::issued_to(pool, campaign, &users, &nths).await?;
    Ok(issued.iter().map(|(user, nth)| Seat::new(user.as_str(), *nth)).collect())
}
