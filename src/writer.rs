//! The writer: batches of claims become coupons and outbox rows, one call and one commit a batch.
//! A task for each shard, with a connection of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_relay::Shard;
use outbox_relay::retry::Retry;
use outbox_relay::zoo;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use time::OffsetDateTime;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use ulid::Generator;

use crate::failpoint;
use crate::gate::loader::Loader;
use crate::gate::redis::Seat;
use crate::gate::worker::Gate;
use crate::ids::CampaignId;
use crate::issue::work::{self as batch, ANSWER_TIMEOUT, Answer};
use crate::issue::{Claim, ClaimError, Verdict};

/// Claims waiting for one shard, at the most; more are refused.
const QUEUE: usize = 4_096;
/// Postgres cancels a batch that takes longer, lock waits included; then surely nothing is committed.
const STATEMENT_TIMEOUT: &str = "3s";
/// How plans are made: the same from the first row to the millionth. What is best while a table is
/// empty (to scan all of it, to hash all of it) is kept with the connection, and would be ruin when it
/// is full. Of the session, because `SET` at the function costs at every call.
///
/// What is off is counted as dear, not forbidden: the smallest table without an index would make a
/// plan look so dear that it is compiled, at every call (7 ms a batch).
pub const PLANS: [(&str, &str); 6] = [
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];
/// Claims of one shard in progress in a process, from before the gate to their answer: three full batches, so that
/// one is always ready. The queue has place for all of them, and for some whose users have gone.
const PLACES: usize = 1_500;
/// A connection without work is tried so often.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Longer than a claim takes.
const FORGOTTEN_AFTER: time::Duration = time::Duration::seconds(5);

/// The way to one shard's writer.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: mpsc::Sender<Claim>,
    connected: Arc<AtomicBool>,
    places: Arc<Semaphore>,
}

impl Writer {
    /// Has a claim judged, written and answered. Gives it back when too many wait.
    pub fn write(&self, claim: Claim) -> Result<(), Claim> {
        self.queue.try_send(claim).map_err(TrySendError::into_inner)
    }

    /// Waits for a place among the claims in progress. It is free again when what is answered is dropped.
    pub async fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.acquire().await.ok()
    }

    /// Whether it has a connection to Postgres.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

/// Writes the claims of one shard.
#[derive(Debug)]
pub struct WriterWorker {
    shard: Shard,
    batch_rows: usize,
    database: PgConnectOptions,
    claims: mpsc::Receiver<Claim>,
    connected: Arc<AtomicBool>,
    gate: Gate,
    loader: Loader,
    /// The relay of this shard, if it is in this process.
    appended: Arc<Notify>,
    ids: Generator,
}

impl WriterWorker {
    /// A writer, and the worker that has to run for it. `batch_rows` bounds a batch.
    #[must_use]
    pub fn new(
        shard: Shard,
        batch_rows: usize,
        database: &PgConnectOptions,
        gate: Gate,
        loader: Loader,
        appended: Arc<Notify>,
    ) -> (Writer, Self) {
        let (queue, claims) = mpsc::channel(QUEUE);
        let database = database.clone().options([("statement_timeout", STATEMENT_TIMEOUT)]).options(PLANS);
        let connected = Arc::new(AtomicBool::new(false));
        let places = Arc::new(Semaphore::new(PLACES));
        let writer = Writer { queue, connected: connected.clone(), places };
        let ids = Generator::new();
        (writer, Self { shard, batch_rows, database, claims, connected, gate, loader, appended, ids })
    }

    /// Works until every [`Writer`] is gone.
    pub async fn run(mut self) {
        let mut retry = Retry::new(Duration::from_millis(20), Duration::from_secs(1));
        while let Some(connection) = self.connect(&mut retry).await {
            self.connected.store(true, Ordering::Relaxed);
            if self.serve(connection, &mut retry).await == Served::All {
                return;
            }
            self.connected.store(false, Ordering::Relaxed);
        }
    }

    async fn serve(&mut self, mut connection: PgConnection, retry: &mut Retry) -> Served {
        let mut batch = Vec::with_capacity(self.batch_rows);
        loop {
            // Whoever is ready to run goes first: his claim comes along.
            yield_now().await;
            if batch.is_empty() {
                match timeout(PING_INTERVAL, self.claims.recv_many(&mut batch, self.batch_rows)).await {
                    Ok(0) => return Served::All,
                    Ok(_) => {}
                    // Nobody is to find out by his claim that Postgres was restarted in a quiet hour.
                    Err(_) => match timeout(ANSWER_TIMEOUT, takes_writes(&mut connection)).await {
                        Ok(Ok(())) => continue,
                        lost => {
                            tracing::warn!(shard = %self.shard, "the writer has lost Postgres: {lost:?}");
                            return Served::UntilDisconnected;
                        }
                    },
                }
            }
            let overdue: Vec<Claim> = batch.extract_if(.., |claim| claim.is_overdue()).collect();
            if !overdue.is_empty() {
                tracing::debug!(shard = %self.shard, claims = overdue.len(), "claims have waited too long");
                self.refuse(overdue, ClaimError::Overloaded);
                continue;
            }
            let together = batch::take_together(&mut batch);
            failpoint::reached("writer.took").await;
            let result = batch::write(&mut connection, self.shard, &together, &mut self.ids).await;
            if result.is_ok() {
                self.appended.notify_one();
            }
            failpoint::reached("writer.committed").await;
            let failed = result.is_err();
            self.settle(together, result);
            failpoint::reached("writer.settled").await;
            if failed {
                self.refuse(batch, ClaimError::NotWritten);
                return Served::UntilDisconnected;
            }
            retry.reset();
        }
    }

    /// Connects, and fails whoever comes meanwhile. Nothing when every writer is gone.
    async fn connect(&mut self, retry: &mut Retry) -> Option<PgConnection> {
        let database = self.database.clone();
        let attempts = async {
            loop {
                match timeout(ANSWER_TIMEOUT, connect(&database)).await {
                    Ok(Ok(connection)) => return connection,
                    Ok(Err(error)) => tracing::warn!(%error, "connect to Postgres"),
                    Err(_) => tracing::warn!("Postgres does not answer"),
                }
                sleep(retry.next_wait()).await;
            }
        };
        tokio::pin!(attempts);
        loop {
            tokio::select! {
                connection = &mut attempts => return Some(connection),
                claim = self.claims.recv() => self.refuse(vec![claim?], ClaimError::NotWritten),
            }
        }
    }

    /// Answers claims of which surely nothing is written.
    fn refuse(&self, claims: Vec<Claim>, why: ClaimError) {
        if !zoo::has("seats-of-the-failed-are-kept") {
            release(&self.gate, &claims);
        }
        for claim in claims {
            claim.answer(Err(why));
        }
    }

    /// Answers every claim, and tells the gate what became of its seats.
    fn settle(&self, claims: Vec<Claim>, result: Result<Vec<Answer>, ClaimError>) {
        let answers = match result {
            Ok(answers) => answers,
            // Surely failed: back on sale.
            Err(error @ ClaimError::NotWritten) => return self.refuse(claims, error),
            Err(error @ ClaimError::Unknown) if zoo::has("unknown-is-taken-for-failed") => {
                return self.refuse(claims, error);
            }
            // Not known: neither, the sweeper will ask Postgres.
            Err(error) => return claims.into_iter().for_each(|claim| claim.answer(Err(error))),
        };
        let mut claims: Vec<Option<Claim>> = claims.into_iter().map(Some).collect();
        let mut confirmed: HashMap<CampaignId, Vec<Seat>> = HashMap::new();
        for Answer { claim, nth, verdict } in answers {
            let Some(claim) = claims[claim].take() else { continue };
            let seat = claim.seat.as_ref();
            match &verdict {
                Verdict::Issued(_) => {
                    confirmed.entry(claim.campaign).or_default().push(Seat::new(&claim.user, nth));
                }
                Verdict::Held(coupon) => {
                    let own = Seat::new(&claim.user, nth);
                    if let Some(seat) = seat.filter(|seat| **seat != own) {
                        self.gate.release(claim.campaign, vec![seat.clone()]);
                    }
                    // A seat for somebody who has long had his: the gate has forgotten. (What he got a
                    // moment ago, he got by asking twice.)
                    let long_ago = OffsetDateTime::now_utc() - coupon.issued_at > FORGOTTEN_AFTER;
                    if seat.is_some() && long_ago {
                        self.loader.want(claim.campaign);
                    }
                    confirmed.entry(claim.campaign).or_default().push(own);
                }
                _ if seat.is_some() => {
                    release(&self.gate, [&claim]);
                    self.loader.want(claim.campaign);
                }
                _ => {}
            }
            claim.answer(Ok(verdict));
        }
        for (campaign, seats) in confirmed {
            self.gate.confirm(campaign, seats);
        }
    }
}

/// Why a writer has stopped to serve on a connection.
#[derive(PartialEq, Eq)]
enum Served {
    All,
    UntilDisconnected,
}

async fn connect(database: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connection = database.connect().await?;
    takes_writes(&mut connection).await?;
    Ok(connection)
}

/// A standby answers too, and would fail every batch.
async fn takes_writes(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let read_only = sqlx::query_scalar("SELECT current_setting('transaction_read_only')::boolean");
    if read_only.fetch_one(connection).await? {
        let why = "Postgres takes no writes: a standby, or default_transaction_read_only is on";
        return Err(sqlx::Error::Configuration(why.into()));
    }
    Ok(())
}

/// Puts the seats of claims back on sale.
fn release<'a>(gate: &Gate, claims: impl IntoIterator<Item = &'a Claim>) {
    let mut seats: HashMap<CampaignId, Vec<Seat>> = HashMap::new();
    for claim in claims {
        if let Some(seat) = &claim.seat {
            seats.entry(claim.campaign).or_default().push(seat.clone());
        }
    }
    for (campaign, seats) in seats {
        gate.release(campaign, seats);
    }
}
