//! The sweeper: sees to seats past their deadline, to gates that missed a change of state or contradict
//! Postgres, and to campaigns whose time has come. Every process may run one; each of its
//! steps can be repeated.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use outbox_relay::zoo;
use redis::Client;
use sqlx::PgPool;
use tokio::time::{MissedTickBehavior, interval};

use super::loader::{self, LoadError};
use super::redis::{GRACE, Seat, Seats};
use crate::campaign::Campaign;
use crate::campaign::store::{self, ChangeError, Standing};
use crate::ids::CampaignId;
use crate::{coupon, failpoint};

const INTERVAL: Duration = Duration::from_millis(500);
/// A gate that contradicts Postgres is loaded no more often than this: a large one takes its time.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// How long after its end a campaign is seen to: long after the last lease. The first round goes back as far as
/// gates do, since seats may have been left pending when nobody swept.
const OVER: time::Duration = time::Duration::hours(1);
/// Seats seen to at a time.
const BATCH: usize = 1_000;
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a round was cut short. The next one starts afresh.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("bring campaigns up to date")]
    Change(#[from] ChangeError),
    #[error("see to seats")]
    Seats(#[from] LoadError),
}

/// Goes round until it is dropped.
pub async fn run(client: Client, pool: PgPool) -> Infallible {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = false;
    let mut reloads = HashMap::new();
    let mut over = GRACE;
    loop {
        ticks.tick().await;
        let result = sweep(&client, &pool, over, &mut reloads).await;
        if let Err(error) = &result
            && !failed
        {
            tracing::warn!(error = error as &dyn std::error::Error, "sweeping fails");
        }
        failed = result.is_err();
        if !failed {
            over = OVER;
        }
    }
}

/// One round. `reloads` says when gates that contradicted Postgres were last loaded.
async fn sweep(
    client: &Client,
    pool: &PgPool,
    over: time::Duration,
    reloads: &mut HashMap<CampaignId, Instant>,
) -> Result<(), SweepError> {
    store::change_due(pool).await?;
    reloads.retain(|_, at| at.elapsed() < RELOAD_INTERVAL);
    let mut seats = Seats::connect(client, RESPONSE_TIMEOUT).await.map_err(LoadError::from)?;
    for Standing { campaign, issued, .. } in store::live(pool, over).await.map_err(LoadError::from)? {
        tell_state(&mut seats, &campaign).await?;
        resolve_overdue(&mut seats, pool, campaign.id).await?;
        if !reloads.contains_key(&campaign.id)
            && let Some(wrong) = contradiction(&mut seats, pool, campaign.id, issued.into()).await?
        {
            reloads.insert(campaign.id, Instant::now());
            tracing::warn!(campaign = %campaign.id, "the gate is loaded anew: {wrong}");
            loader::load(client, pool, campaign.id).await?;
        }
    }
    Ok(())
}

/// In what a gate contradicts Postgres, where `issued` were counted before. A seat is taken before its
/// coupon is committed, and confirmed after it.
async fn contradiction(
    seats: &mut Seats,
    pool: &PgPool,
    campaign: CampaignId,
    issued: i64,
) -> Result<Option<String>, LoadError> {
    let Some((taken, pending)) = seats.count(campaign).await? else { return Ok(None) };
    if taken < issued {
        return Ok(Some(format!("it has forgotten seats: {taken} are taken, {issued} coupons issued")));
    }
    let confirmed = taken - pending;
    if confirmed <= issued {
        return Ok(None);
    }
    // Others have been issued meanwhile, or it knows of coupons that the database has lost.
    let issued = store::standing(pool, campaign).await?.map_or(0, |standing| standing.issued.into());
    Ok((confirmed > issued).then(|| format!("{confirmed} seats are confirmed, {issued} coupons issued")))
}

/// A gate that has an older version of its campaign is told the state.
async fn tell_state(seats: &mut Seats, campaign: &Campaign) -> Result<(), LoadError> {
    if seats.version(campaign.id).await?.is_some_and(|version| version < campaign.version) {
        seats.set_state(campaign).await?;
    }
    Ok(())
}

/// Seats past their deadline: those with a coupon are confirmed, the others go back on sale. A
/// coupon that is committed after all is confirmed by its writer, or refused by Postgres.
async fn resolve_overdue(seats: &mut Seats, pool: &PgPool, campaign: CampaignId) -> Result<(), LoadError> {
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
            tracing::info!(%campaign, count, "seats back on sale: their claims were not committed in time");
        }
    }
}

/// Which of these seats have a coupon.
pub(crate) async fn with_coupon(
    pool: &PgPool,
    campaign: CampaignId,
    seats: &[Seat],
) -> Result<HashSet<Seat>, sqlx::Error> {
    let (users, nths): (Vec<&str>, Vec<i32>) = seats.iter().map(Seat::parts).unzip();
    let issued = coupon::store::issued_to(pool, campaign, &users, &nths).await?;
    Ok(issued.iter().map(|(user, nth)| Seat::new(user.as_str(), *nth)).collect())
}
