//! The loader: fills gates from Postgres, when Redis has lost them or was contradicted. Several at a time, their chunks
//! by turns: a small gate is there before large ones are.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use outbox_relay::sqlstate::is_away;
use redis::RedisError;
use tokio::sync::{Semaphore, mpsc};
use ulid::Ulid;

use super::client::Client;
use super::connection::is_outage;
use super::record::GRACE;
use super::redis::{LoadStep, Seats};
use super::seat::Seat;
use crate::campaign::{Campaign, store};
use crate::ids::CampaignId;
use crate::pool::Pool;
use crate::storage::prepared;
use crate::{coupon, failpoint};

/// Campaigns that wait to be loaded, at most; the next claim asks again.
const QUEUE: usize = 1_024;
/// Seats in one call to Redis.
const CHUNK: i64 = 2_000;
/// For one call to Redis of the loader or the sweeper, which are not on the path of a request.
pub(super) const UPKEEP_RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The time between two loads of one campaign, at least.
const LOAD_INTERVAL: Duration = Duration::from_millis(500);
/// From this number of coupons on a gate counts as large: it takes longer than a tenth of a second.
const LARGE: i32 = 20_000;
/// Loads in progress, of large gates and of small ones each: so few that each has its turn again long before the lease
/// of its loader ends.
const AT_ONCE: usize = 16;
/// Statements at Postgres at the same time: less than half of the pool, whose connections are for requests, too.
const STATEMENTS_AT_ONCE: usize = 3;

/// Why a gate was not loaded. The next claim or round of the sweeper retries.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("read the coupons")]
    Database(#[from] sqlx::Error),
    #[error("fill the gate")]
    Gate(#[from] RedisError),
    #[error("other loaders fill the gate all the time")]
    Busy,
}

impl LoadError {
    /// Whether a server is away, of which the writers and the worker of the gate tell in the log.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Database(error) => is_away(error),
            Self::Gate(error) => is_outage(error),
            Self::Busy => false,
        }
    }
}

/// The way to the loader.
#[derive(Clone, Debug)]
pub struct Loader {
    queue: mpsc::Sender<CampaignId>,
    pub(super) client: Client,
    pub(super) source: Source,
}

impl Loader {
    /// A loader, and the worker that must run for it.
    #[must_use]
    pub fn new(client: Client, pool: Pool) -> (Self, LoaderWorker) {
        let (queue, wanted) = mpsc::channel(QUEUE);
        let source = Source { pool, turns: Arc::new(Semaphore::new(STATEMENTS_AT_ONCE)) };
        let worker = LoaderWorker {
            client: client.clone(),
            source: source.clone(),
            wanted,
            waiting: Waiting::default(),
            finished: HashMap::new(),
        };
        (Self { queue, client, source }, worker)
    }

    /// Asks for a gate to be loaded, soon.
    pub fn want(&self, campaign: CampaignId) {
        let _ = self.queue.try_send(campaign);
    }

    /// Brings the gate up to date with a change that is committed. When this fails, the sweeper does it.
    pub async fn notify(&self, campaign: &Campaign) -> Result<(), LoadError> {
        let mut seats = Seats::connect(&self.client, UPKEEP_RESPONSE_TIMEOUT).await?;
        match seats.version(campaign.id).await? {
            Some(_) => Ok(seats.set(campaign).await?),
            None => load(&mut seats, &self.source, campaign.id).await.map(drop),
        }
    }
}

/// Postgres, for some statements at a time: those who wait have their turns.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pool: Pool,
    turns: Arc<Semaphore>,
}

impl Source {
    pub(super) async fn issued(&self, campaign: CampaignId) -> Result<i32, sqlx::Error> {
        let _turn = self.turns.acquire().await;
        prepared!(self.pool, |connection| coupon::store::issued(connection, campaign))
    }

    async fn campaign(&self, campaign: CampaignId) -> Result<Option<store::Snapshot>, sqlx::Error> {
        let _turn = self.turns.acquire().await;
        store::get(&self.pool, campaign).await
    }

    async fn holders(
        &self,
        campaign: CampaignId,
        after: i32,
    ) -> Result<Vec<coupon::store::Holder>, sqlx::Error> {
        prepared!(self.pool, |connection| coupon::store::holders(connection, campaign, after, CHUNK))
    }

    /// The seats of the next coupons behind number `after`, and the number of the last. Nothing at the end.
    async fn seats(&self, campaign: CampaignId, after: i32) -> Result<Option<(i32, Vec<Seat>)>, sqlx::Error> {
        let _turn = self.turns.acquire().await;
        let holders = self.holders(campaign, after).await?;
        let seats = holders.iter().map(|holder| Seat::new(&holder.user_id, holder.nth)).collect();
        Ok(holders.last().map(|last| (last.number, seats)))
    }
}

/// Loads gates.
#[derive(Debug)]
pub struct LoaderWorker {
    client: Client,
    source: Source,
    wanted: mpsc::Receiver<CampaignId>,
    waiting: Waiting,
    /// When gates were loaded, for [`LOAD_INTERVAL`].
    finished: HashMap<CampaignId, Instant>,
}

/// What is to be loaded, and what is being loaded.
#[derive(Debug, Default)]
struct Waiting {
    /// All of them, those that are being loaded included.
    known: HashSet<CampaignId>,
    small: VecDeque<CampaignId>,
    large: VecDeque<CampaignId>,
    /// Loads in progress, of small gates and of large ones.
    in_progress: [usize; 2],
}

/// The size of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// Or not known yet.
    Small,
    Large,
}

/// What a load came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    /// The gate is there, or there is nothing to load.
    Done,
    /// Another loader is at work.
    ByAnother,
    /// It must wait for a place among the large ones.
    IsLarge,
    /// Redis has lost what was loaded so far, or another loader has taken over.
    Superseded,
}

type Ended = (CampaignId, Size, Result<Loaded, LoadError>);

impl LoaderWorker {
    /// Works until every [`Loader`] is gone; then it finishes what is in progress.
    pub async fn run(mut self) {
        let mut loads = FuturesUnordered::new();
        loop {
            while let Some((campaign, size)) = self.waiting.next() {
                loads.push(attempt(self.client.clone(), self.source.clone(), campaign, size));
            }
            tokio::select! {
                wanted = self.wanted.recv() => match wanted {
                    Some(campaign) => self.want(campaign),
                    None => break,
                },
                Some(ended) = loads.next() => self.end(ended),
            }
        }
        while let Some(ended) = loads.next().await {
            self.end(ended);
        }
    }

    fn want(&mut self, campaign: CampaignId) {
        self.finished.retain(|_, at| at.elapsed() < LOAD_INTERVAL);
        if !self.finished.contains_key(&campaign)
            && self.waiting.known.len() < QUEUE
            && self.waiting.known.insert(campaign)
        {
            self.waiting.small.push_back(campaign);
        }
    }

    fn end(&mut self, (campaign, size, result): Ended) {
        self.waiting.in_progress[size as usize] -= 1;
        match result {
            Ok(Loaded::IsLarge) => return self.waiting.large.push_back(campaign),
            // Claims that wanted the gate meanwhile relied on this load.
            Ok(Loaded::Superseded) => return self.waiting.small.push_back(campaign),
            Ok(Loaded::Done | Loaded::ByAnother) => drop(self.finished.insert(campaign, Instant::now())),
            Err(error) if error.is_outage() => {
                tracing::debug!(%campaign, error = &error as &dyn std::error::Error, "the gate was not loaded");
            }
            Err(error) => {
                tracing::warn!(%campaign, error = &error as &dyn std::error::Error, "the gate was not loaded");
            }
        }
        self.waiting.known.remove(&campaign);
    }
}

impl Waiting {
    /// The next campaign, if there is a place for it.
    fn next(&mut self) -> Option<(CampaignId, Size)> {
        for (queue, size) in [(&mut self.small, Size::Small), (&mut self.large, Size::Large)] {
            let places = &mut self.in_progress[size as usize];
            if *places < AT_ONCE
                && let Some(campaign) = queue.pop_front()
            {
                *places += 1;
                return Some((campaign, size));
            }
        }
        None
    }
}

/// Loads a gate, or returns that it is large and must wait for another place.
async fn attempt(client: Client, source: Source, campaign: CampaignId, size: Size) -> Ended {
    let loaded = async {
        if size == Size::Small && source.issued(campaign).await? >= LARGE {
            return Ok(Loaded::IsLarge);
        }
        let mut seats = Seats::connect(&client, UPKEEP_RESPONSE_TIMEOUT).await?;
        load(&mut seats, &source, campaign).await
    };
    (campaign, size, loaded.await)
}

/// Loads the gate of a campaign. Does nothing when another loader is at work.
pub(super) async fn load(
    seats: &mut Seats,
    source: &Source,
    campaign: CampaignId,
) -> Result<Loaded, LoadError> {
    let token = Ulid::generate();
    if seats.begin_load(campaign, token).await? == LoadStep::Superseded {
        return Ok(Loaded::ByAnother);
    }
    failpoint::reached("loader.began").await;
    // Read after `begin`: a coupon that is committed after this read is confirmed after `begin`, so it lands in
    // the loading set.
    let mut number = 0;
    while let Some((last, chunk)) = source.seats(campaign, number).await? {
        number = last;
        if seats.add_to_load(campaign, token, &chunk).await? == LoadStep::Superseded {
            return Ok(Loaded::Superseded);
        }
    }
    failpoint::reached("loader.filled").await;
    // Read last: it may have changed meanwhile, and its listener has changed the gate that is replaced now.
    let Some(found) = source.campaign(campaign).await? else { return Ok(Loaded::Done) };
    if found.is_over_for(GRACE) {
        return Ok(Loaded::Done); // its keys would expire at once
    }
    if seats.finish_load(&found.campaign, token).await? == LoadStep::Superseded {
        return Ok(Loaded::Superseded);
    }
    tracing::info!(%campaign, taken = number, state = found.campaign.state.as_str(), "gate loaded");
    failpoint::reached("loader.finished").await;
    Ok(Loaded::Done)
}
