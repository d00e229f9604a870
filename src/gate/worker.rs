//! The worker of the gate: whatever has queued up while the last call was in flight goes to Redis with the next.
//! It knows nothing of claims: a [`Candidate`] asks for a seat and is told the answer.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outbox_relay::retry::Retry;
use outbox_relay::zoo;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use redis::RedisError;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::batch::{Batch, Operation};
use super::candidate::{Candidate, GateError};
use super::client::Client;
use super::connection::{is_of_server, is_of_slot};
use super::reach::Reach;
use super::redis::Seats;
use super::seat::Seat;
use crate::ids::CampaignId;
use crate::trouble::Troubles;

/// Operations that wait for the gate, at most; more are refused.
const QUEUE: usize = 8_192;
/// Operations in one round trip, at most. It bounds how long a script keeps Redis busy.
const BATCH: usize = 512;
/// Seats whose confirmation is repeated when Redis is back, at most; the sweeper confirms the others.
const UNCONFIRMED_SEATS_MAX: usize = 8_192;
/// A healthy Redis answers within a few milliseconds. A claim waits for the call in flight and for its own, and
/// must be refused within 300 ms.
const CLAIM_RESPONSE_TIMEOUT: Duration = Duration::from_millis(200);
/// How often a connection without work is tested.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// What the worker measures.
#[derive(Clone, Debug)]
pub struct Measures {
    /// Candidates in one round trip.
    pub batch: Histogram,
    /// Seconds of one round trip.
    pub call: Histogram,
    /// Calls that failed for one campaign alone.
    pub failures: Counter,
}

/// The way to the gate. Clones share it.
#[derive(Debug)]
pub struct Gate<C> {
    queue: mpsc::Sender<(CampaignId, Operation<C>)>,
    reach: Arc<Reach>,
}

impl<C> Clone for Gate<C> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), reach: self.reach.clone() }
    }
}

impl<C: Candidate> Gate<C> {
    /// A gate, and the worker that must run for it.
    #[must_use]
    pub fn new(client: Client, measures: Measures) -> (Self, GateWorker<C>) {
        let (queue, operations) = mpsc::channel(QUEUE);
        let reach = Arc::new(Reach::default());
        let worker = GateWorker {
            client,
            operations,
            reach: reach.clone(),
            unconfirmed: VecDeque::new(),
            troubles: Troubles::new("the gate of a campaign fails", measures.failures.clone()),
            measures,
        };
        (Self { queue, reach }, worker)
    }

    /// Whether Redis gave seats, at the latest attempt; of a Redis Cluster, at least one node.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.reach.is_reachable()
    }

    /// The nodes of a Redis Cluster that give no seats, one sentence each.
    #[must_use]
    pub fn away(&self) -> Vec<String> {
        self.reach.away()
    }

    /// Operations that wait now.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Asks for a seat. The candidate is told the answer, or an error, within 300 ms.
    pub fn admit(&self, candidate: C) {
        use mpsc::error::TrySendError::{Closed, Full};
        match self.queue.try_send((candidate.campaign(), Operation::Admit(candidate))) {
            Err(Full((_, Operation::Admit(candidate)))) => drop(candidate.told(Err(GateError::Overloaded))),
            Err(Closed((_, Operation::Admit(candidate)))) => {
                drop(candidate.told(Err(GateError::Unreachable)));
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Confirms seats whose coupons are committed. Off the path of a request: what does not reach Redis is
    /// repeated, or found by the sweeper after the seats' deadline.
    pub fn confirm(&self, campaign: CampaignId, seats: Vec<Seat>) {
        self.queue(campaign, Operation::Confirm(seats));
    }

    /// Puts seats back on sale whose coupons were surely not committed. Off the path of a request.
    pub fn release(&self, campaign: CampaignId, seats: Vec<Seat>) {
        self.queue(campaign, Operation::Release(seats));
    }

    fn queue(&self, campaign: CampaignId, operation: Operation<C>) {
        if self.queue.try_send((campaign, operation)).is_err() {
            tracing::debug!(%campaign, "the gate's queue is full: the sweeper will settle these seats");
        }
    }
}

/// Carries operations to Redis. One round trip is in flight at a time; nothing waits on a timer.
#[derive(Debug)]
pub struct GateWorker<C> {
    client: Client,
    operations: mpsc::Receiver<(CampaignId, Operation<C>)>,
    reach: Arc<Reach>,
    /// Seats whose confirmation did not reach Redis. (A release that did not is not repeated: the user may have
    /// asked again, and the seat belong to another claim.)
    unconfirmed: VecDeque<(CampaignId, Vec<Seat>)>,
    troubles: Troubles,
    measures: Measures,
}

impl<C: Candidate> GateWorker<C> {
    /// Works until every [`Gate`] is gone. While Redis is away, or gives no seats, it refuses at once.
    pub async fn run(mut self) {
        let mut retry = Retry::new(Duration::from_millis(20), Duration::from_millis(500));
        let mut told = false;
        while let Some(seats) = self.connected(&mut retry, &mut told).await {
            let reach = self.reach.clone();
            reach.set(true);
            if mem::take(&mut told) {
                tracing::info!("Redis at {} gives seats again", self.client);
            }
            let served = tokio::select! {
                served = self.serve(seats.clone(), &mut retry) => served,
                never = reach.watch(seats, PROBE_INTERVAL) => match never {},
            };
            let Err(error) = served else { return };
            reach.set(false);
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "Redis at {}: the gate is lost: claims are refused", self.client);
            told = true;
        }
    }

    /// Connects, and refuses every candidate meanwhile. Nothing when every gate is gone. `told`: whether the log has said
    /// that Redis is away.
    async fn connected(&mut self, retry: &mut Retry, told: &mut bool) -> Option<Seats> {
        let client = self.client.clone();
        let attempts = connect(&client, retry, told);
        tokio::pin!(attempts);
        loop {
            tokio::select! {
                seats = &mut attempts => return Some(seats),
                operation = self.operations.recv() => match operation? {
                    (_, Operation::Admit(candidate)) => drop(candidate.told(Err(GateError::Unreachable))),
                    (campaign, Operation::Confirm(seats)) => confirm_later(&mut self.unconfirmed, campaign, seats),
                    (_, Operation::Release(_)) => {} // the sweeper will release these
                },
            }
        }
    }

    async fn serve(&mut self, mut seats: Seats, retry: &mut Retry) -> Result<(), RedisError> {
        let mut operations = Vec::with_capacity(BATCH);
        let mut confirmed_at: Option<Instant> = None;
        loop {
            if confirmed_at.is_none_or(|at| at.elapsed() >= PROBE_INTERVAL) {
                self.confirm_again(&mut seats).await?;
                confirmed_at = Some(Instant::now());
            }
            match timeout(PROBE_INTERVAL, self.operations.recv_many(&mut operations, BATCH)).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // A loss of Redis in a quiet hour is noticed before the next claim.
                Err(_) => {
                    seats.probe().await?;
                    continue;
                }
            }
            self.call(Batch::new(operations.drain(..)), &seats).await?;
            retry.reset();
        }
    }

    /// A confirmation that fails here is not repeated, as it may be what Redis cannot do; unless a node of a Cluster is
    /// away.
    async fn confirm_again(&mut self, seats: &mut Seats) -> Result<(), RedisError> {
        for _ in 0..self.unconfirmed.len() {
            let Some((campaign, confirmed)) = self.unconfirmed.pop_front() else { break };
            match seats.confirm(campaign, &confirmed).await {
                Err(error) if is_of_server(&error) && !seats.is_of_all(&error) => {
                    confirm_later(&mut self.unconfirmed, campaign, confirmed);
                }
                Err(error) => self.report(seats, &HashMap::from([(campaign, error)])).await?,
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// One round trip.
    async fn call(&mut self, mut batch: Batch<C>, seats: &Seats) -> Result<(), RedisError> {
        let candidates = batch.candidates();
        let started = Instant::now();
        let failed = batch.call(seats).await;
        if candidates > 0 {
            self.measures.call.observe(started.elapsed().as_secs_f64());
            #[expect(clippy::cast_precision_loss, reason = "at most BATCH")]
            self.measures.batch.observe(candidates as f64);
        }
        let result = self.report(seats, &failed).await;
        for (campaign, seats) in batch.unconfirmed() {
            // If a campaign's own key fails, they are not kept: the load that follows reads its coupons in Postgres.
            if result.is_err() || failed.get(&campaign).is_some_and(is_of_server) {
                confirm_later(&mut self.unconfirmed, campaign, seats);
            }
        }
        result
    }

    /// Reports what failed for single campaigns. An error when Redis gives no seats to any. What fails for the campaigns
    /// of one node of a Cluster, [`Reach`] reports for all of them.
    async fn report(
        &mut self,
        seats: &Seats,
        failed: &HashMap<CampaignId, RedisError>,
    ) -> Result<(), RedisError> {
        if let Some(error) =
            failed.values().find(|error| seats.is_of_all(error) || zoo::has("one-campaign-loses-the-gate"))
        {
            return Err(error.clone());
        }
        if failed.values().any(|error| !is_of_server(error)) {
            seats.clone().probe().await?;
        }
        let own = failed.iter().filter(|(_, error)| !is_of_server(error) || is_of_slot(error));
        for (campaign, error) in own {
            self.troubles.report(*campaign, error);
        }
        Ok(())
    }
}

fn confirm_later(
    unconfirmed: &mut VecDeque<(CampaignId, Vec<Seat>)>,
    campaign: CampaignId,
    seats: Vec<Seat>,
) {
    let known: usize = unconfirmed.iter().map(|(_, seats)| seats.len()).sum();
    if !seats.is_empty() && known + seats.len() <= UNCONFIRMED_SEATS_MAX {
        unconfirmed.push_back((campaign, seats));
    }
}

/// Tries until there is a connection that gives seats.
async fn connect(client: &Client, retry: &mut Retry, told: &mut bool) -> Seats {
    loop {
        let connected = async {
            let mut seats = Seats::connect(client, CLAIM_RESPONSE_TIMEOUT).await?;
            seats.probe().await?;
            Ok::<_, RedisError>(seats)
        };
        match connected.await {
            Ok(seats) => return seats,
            Err(error) if !*told => {
                tracing::warn!("Redis at {client} gives no seats, retrying: {error}");
            }
            Err(error) => tracing::debug!(%error, "connect to Redis"),
        }
        *told = true;
        sleep(retry.next_wait()).await;
    }
}
