//! The gate: who is in, decided in Redis, a batch at a time. It is fast and may be wrong; Postgres
//! decides again.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use outbox_relay::retry::Retry;
use redis::{Client, RedisError};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::redis::{Admission, Seat, Seats};
use crate::failpoint;
use crate::ids::CampaignId;
use crate::issue::{Claim, ClaimError, Verdict};
use crate::writer::Writer;

/// Operations waiting for the gate, at the most; more are refused.
const QUEUE: usize = 8_192;
/// Operations in one round trip. It bounds how long a script keeps Redis busy.
const BATCH: usize = 512;
/// Seats to be confirmed when Redis is there again, at the most; the sweeper sees to more.
const LATE: usize = 8_192;
/// A healthy Redis answers within a few milliseconds. Whoever comes while a call is in flight waits
/// for it and for his own, and is to be refused within 300 ms.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(200);
/// A connection without work is tried so often.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Operation {
    Admit(Claim, Writer),
    Confirm(Vec<Seat>),
    Release(Vec<Seat>),
}

/// The way to the gate.
#[derive(Clone, Debug)]
pub struct Gate {
    queue: mpsc::Sender<(CampaignId, Operation)>,
    reachable: Arc<AtomicBool>,
}

impl Gate {
    /// A gate, and the worker that has to run for it.
    #[must_use]
    pub fn new(client: Client) -> (Self, GateWorker) {
        let (queue, operations) = mpsc::channel(QUEUE);
        let reachable = Arc::new(AtomicBool::new(false));
        let worker = GateWorker { client, operations, reachable: reachable.clone(), late: Vec::new() };
        (Self { queue, reachable }, worker)
    }

    /// Whether Redis gives seats, at the latest attempt.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// Asks for a seat, and passes the claim on to the writer when there is one. Whoever gets none is
    /// told within 300 ms, with an error if need be.
    pub fn admit(&self, claim: Claim, writer: Writer) {
        use mpsc::error::TrySendError::{Closed, Full};
        match self.queue.try_send((claim.campaign, Operation::Admit(claim, writer))) {
            Err(Full((_, Operation::Admit(claim, _)))) => claim.answer(Err(ClaimError::Overloaded)),
            Err(Closed((_, Operation::Admit(claim, _)))) => claim.answer(Err(ClaimError::GateUnreachable)),
            Ok(()) | Err(_) => {}
        }
    }

    /// Says that coupons of these seats are committed. Off the path of a request: it is said again when it does
    /// not come through, and at the latest the sweeper finds the seats past their deadline.
    pub fn confirm(&self, campaign: CampaignId, seats: Vec<Seat>) {
        self.tell(campaign, Operation::Confirm(seats));
    }

    /// Puts seats back on sale whose coupons were surely not committed. Off the path of a request.
    pub fn release(&self, campaign: CampaignId, seats: Vec<Seat>) {
        self.tell(campaign, Operation::Release(seats));
    }

    fn tell(&self, campaign: CampaignId, operation: Operation) {
        if self.queue.try_send((campaign, operation)).is_err() {
            tracing::debug!(%campaign, "the gate is busy: the sweeper will see to these seats");
        }
    }
}

/// Carries operations to Redis: whatever has queued up while the last call was in flight goes with
/// the next. One round trip is in flight at a time; nobody waits on a timer.
#[derive(Debug)]
pub struct GateWorker {
    client: Client,
    operations: mpsc::Receiver<(CampaignId, Operation)>,
    reachable: Arc<AtomicBool>,
    /// Seats whose confirmation did not come through. (A release that did not is not tried again: the user may
    /// have asked again, and his seat be another claim's.)
    late: Vec<(CampaignId, Vec<Seat>)>,
}

impl GateWorker {
    /// Works until every [`Gate`] is gone. While Redis is away, or gives no seats, it refuses at once.
    pub async fn run(mut self) {
        let mut retry = Retry::new(Duration::from_millis(20), Duration::from_millis(500));
        while let Some(seats) = self.connected(&mut retry).await {
            self.reachable.store(true, Ordering::Relaxed);
            let Err(error) = self.serve(seats, &mut retry).await else { return };
            self.reachable.store(false, Ordering::Relaxed);
            tracing::warn!(error = &error as &dyn std::error::Error, "the gate is lost: claims are refused");
        }
    }

    /// Connects, and refuses whoever comes meanwhile. Nothing when every gate is gone.
    async fn connected(&mut self, retry: &mut Retry) -> Option<Seats> {
        let client = self.client.clone();
        let attempts = async {
            let mut told = false;
            loop {
                match connect(&client).await {
                    Ok(seats) => return seats,
                    Err(error) if !told => {
                        let address = client.get_connection_info().addr();
                        tracing::warn!("Redis at {address} gives no seats, trying again: {error}");
                    }
                    Err(error) => tracing::debug!(%error, "connect to Redis"),
                }
                told = true;
                sleep(retry.next_wait()).await;
            }
        };
        tokio::pin!(attempts);
        loop {
            tokio::select! {
                seats = &mut attempts => return Some(seats),
                operation = self.operations.recv() => match operation? {
                    (_, Operation::Admit(claim, _)) => claim.answer(Err(ClaimError::GateUnreachable)),
                    (campaign, Operation::Confirm(seats)) => confirm_later(&mut self.late, campaign, seats),
                    (_, Operation::Release(_)) => {} // the sweeper will see to these
                },
            }
        }
    }

    async fn serve(&mut self, mut seats: Seats, retry: &mut Retry) -> Result<(), RedisError> {
        // One that fails is not tried again: it may be what Redis cannot do.
        while let Some((campaign, confirmed)) = self.late.pop() {
            seats.confirm(campaign, &confirmed).await?;
        }
        let mut operations = Vec::with_capacity(BATCH);
        loop {
            match timeout(PROBE_INTERVAL, self.operations.recv_many(&mut operations, BATCH)).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // Nobody is to find out by his claim that Redis was lost in a quiet hour.
                Err(_) => {
                    seats.probe().await?;
                    continue;
                }
            }
            let mut batches: HashMap<CampaignId, Batch> = HashMap::new();
            for (campaign, operation) in operations.drain(..) {
                batches.entry(campaign).or_default().add(operation);
            }
            let calls = batches.iter_mut().map(|(campaign, batch)| batch.call(*campaign, &seats));
            let result = join_all(calls).await.into_iter().collect::<Result<(), _>>();
            for (campaign, batch) in batches {
                confirm_later(&mut self.late, campaign, batch.confirmed);
            }
            result?;
            retry.reset();
        }
    }
}

fn confirm_later(late: &mut Vec<(CampaignId, Vec<Seat>)>, campaign: CampaignId, seats: Vec<Seat>) {
    let known: usize = late.iter().map(|(_, seats)| seats.len()).sum();
    if !seats.is_empty() && known + seats.len() <= LATE {
        late.push((campaign, seats));
    }
}

async fn connect(client: &Client) -> Result<Seats, RedisError> {
    let mut seats = Seats::connect(client, RESPONSE_TIMEOUT).await?;
    seats.probe().await?;
    Ok(seats)
}

/// What one campaign asks of Redis in one round trip.
#[derive(Default)]
struct Batch {
    claims: Vec<(Claim, Writer)>,
    confirmed: Vec<Seat>,
    released: Vec<Seat>,
}

impl Batch {
    fn add(&mut self, operation: Operation) {
        match operation {
            Operation::Admit(claim, writer) => self.claims.push((claim, writer)),
            Operation::Confirm(seats) => self.confirmed.extend(seats),
            Operation::Release(seats) => self.released.extend(seats),
        }
    }

    /// The three calls are written one behind the other, and only then awaited. `confirmed` is empty then, unless
    /// that did not come through.
    async fn call(&mut self, campaign: CampaignId, seats: &Seats) -> Result<(), RedisError> {
        let (mut first, mut second, mut third) = (seats.clone(), seats.clone(), seats.clone());
        let confirm = async {
            if self.confirmed.is_empty() { Ok(()) } else { first.confirm(campaign, &self.confirmed).await }
        };
        let release = async {
            if self.released.is_empty() { Ok(0) } else { second.release(campaign, &self.released).await }
        };
        let admit = async {
            let users = self.claims.iter().map(|(claim, _)| &claim.user);
            if self.claims.is_empty() { Ok(Vec::new()) } else { third.admit(campaign, users).await }
        };
        let (confirmed, released, admitted) = futures_util::join!(confirm, release, admit);
        let result =
            confirmed.clone().and(released.map(drop)).and(admitted.as_ref().map(drop).map_err(Clone::clone));
        if !self.confirmed.is_empty() {
            failpoint::reached("gate.confirmed").await;
        }
        if confirmed.is_ok() {
            self.confirmed.clear();
        }
        if !self.claims.is_empty() {
            failpoint::reached("gate.admitted").await;
        }
        let back_on_sale = pass_on(mem::take(&mut self.claims), admitted.unwrap_or_default());
        failpoint::reached("gate.passed_on").await;
        if !back_on_sale.is_empty() {
            third.release(campaign, &back_on_sale).await?;
        }
        result
    }
}

/// Passes on whom the gate has admitted, and answers the others. Gives back the seats of those for
/// whom the writer has no place.
fn pass_on(claims: Vec<(Claim, Writer)>, admissions: Vec<Admission>) -> Vec<Seat> {
    let mut back_on_sale = Vec::new();
    let mut admissions = admissions.into_iter();
    for (mut claim, writer) in claims {
        let verdict = match admissions.next() {
            Some(Admission::Admitted(seat)) => {
                claim.seat = Some(seat);
                match writer.write(claim) {
                    Ok(()) => continue,
                    Err(refused) => claim = refused,
                }
                back_on_sale.extend(claim.seat.take());
                Err(ClaimError::Overloaded)
            }
            Some(Admission::Already) => Ok(Verdict::Already),
            Some(Admission::Taken) => Ok(Verdict::Taken),
            Some(Admission::SoldOut) => Ok(Verdict::SoldOut),
            Some(Admission::NotOpen) => Ok(Verdict::NotOpen),
            Some(Admission::Closed) => Ok(Verdict::Closed),
            Some(Admission::Unloaded) => Err(ClaimError::GateUnloaded),
            None => Err(ClaimError::GateUnreachable),
        };
        claim.answer(verdict);
    }
    back_on_sale
}
