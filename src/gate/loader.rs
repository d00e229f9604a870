//! The loader: fills a campaign's gate from Postgres, when Redis has lost it or was contradicted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::{Client, RedisError};
use tokio::sync::mpsc;
use ulid::Ulid;

use super::redis::{GRACE, LoadStep, Seats};
use super::seat::Seat;
use crate::campaign::{Campaign, store};
use crate::ids::CampaignId;
use crate::pool::Pool;
use crate::{coupon, failpoint};

/// Campaigns that wait to be loaded, at most; the next claim asks again.
const QUEUE: usize = 1_024;
/// Seats in one call to Redis.
const CHUNK: i64 = 2_000;
/// For one call to Redis. Loading is not on the path of a request.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The time between two loads of one campaign, at least.
const LOAD_INTERVAL: Duration = Duration::from_millis(500);

/// Why a gate was not loaded. The next claim or round of the sweeper retries.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("read the coupons")]
    Database(#[from] sqlx::Error),
    #[error("fill the gate")]
    Gate(#[from] RedisError),
}

/// The way to the loader.
#[derive(Clone, Debug)]
pub struct Loader {
    queue: mpsc::Sender<CampaignId>,
    client: Client,
    pool: Pool,
}

impl Loader {
    /// A loader, and the worker that has to run for it.
    #[must_use]
    pub fn new(client: Client, pool: Pool) -> (Self, LoaderWorker) {
        let (queue, wanted) = mpsc::channel(QUEUE);
        let worker = LoaderWorker { client: client.clone(), pool: pool.clone(), wanted };
        (Self { queue, client, pool }, worker)
    }

    /// Asks for a gate to be loaded, soon.
    pub fn want(&self, campaign: CampaignId) {
        let _ = self.queue.try_send(campaign);
    }

    /// Brings the gate up to date with a change that is committed. When this fails, the sweeper does it.
    pub async fn notify(&self, campaign: &Campaign) -> Result<(), LoadError> {
        let mut seats = Seats::connect(&self.client, RESPONSE_TIMEOUT).await?;
        match seats.version(campaign.id).await? {
            Some(_) => Ok(seats.set(campaign).await?),
            None => load(&mut seats, &self.pool, campaign.id).await,
        }
    }
}

/// Loads one gate after the other.
#[derive(Debug)]
pub struct LoaderWorker {
    client: Client,
    pool: Pool,
    wanted: mpsc::Receiver<CampaignId>,
}

impl LoaderWorker {
    /// Works until every [`Loader`] is gone.
    pub async fn run(mut self) {
        let mut loaded: HashMap<CampaignId, Instant> = HashMap::new();
        while let Some(campaign) = self.wanted.recv().await {
            loaded.retain(|_, at| at.elapsed() < LOAD_INTERVAL);
            if loaded.contains_key(&campaign) {
                continue;
            }
            match self.load(campaign).await {
                Ok(()) => drop(loaded.insert(campaign, Instant::now())),
                Err(error) => {
                    tracing::warn!(%campaign, error = &error as &dyn std::error::Error, "the gate was not loaded");
                }
            }
        }
    }

    async fn load(&self, campaign: CampaignId) -> Result<(), LoadError> {
        let mut seats = Seats::connect(&self.client, RESPONSE_TIMEOUT).await?;
        load(&mut seats, &self.pool, campaign).await
    }
}

/// Loads the gate of a campaign. Does nothing when another loader is at work.
pub(super) async fn load(seats: &mut Seats, pool: &Pool, campaign: CampaignId) -> Result<(), LoadError> {
    let token = Ulid::generate();
    if seats.begin_load(campaign, token).await? == LoadStep::Superseded {
        return Ok(());
    }
    failpoint::reached("loader.began").await;
    // Read after `begin`: a coupon that is committed after this read is confirmed after `begin`, so it lands in
    // the loading set.
    let Some(found) = store::get(pool, campaign).await? else { return Ok(()) };
    if found.is_over_for(GRACE) {
        return Ok(()); // its keys would expire at once
    }
    let mut number = 0;
    loop {
        let holders = coupon::store::holders(pool, campaign, number, CHUNK).await?;
        let Some(last) = holders.last() else { break };
        number = last.number;
        let chunk: Vec<Seat> = holders.iter().map(|holder| Seat::new(&holder.user_id, holder.nth)).collect();
        if seats.add_to_load(campaign, token, &chunk).await? == LoadStep::Superseded {
            return Ok(());
        }
    }
    failpoint::reached("loader.filled").await;
    finish(seats, &found.campaign, token, number).await?;
    failpoint::reached("loader.finished").await;
    Ok(())
}

async fn finish(seats: &mut Seats, campaign: &Campaign, token: Ulid, count: i32) -> Result<(), LoadError> {
    if seats.finish_load(campaign, token).await? == LoadStep::Done {
        tracing::info!(campaign = %campaign.id, taken = count, state = campaign.state.as_str(), "gate loaded");
    }
    Ok(())
}
