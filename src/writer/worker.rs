//! The worker of a shard: one connection, and the lanes that it serves in turn.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_relay::Shard;
use outbox_relay::retry::Retry;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::lane::{ANSWER_TIMEOUT, Disconnected, Filled, Lane, Queued, fill};
use super::work::{Measures, Work, WriteError, Writer};

/// Postgres cancels a batch that takes longer, lock waits included; then surely nothing is committed. Shorter than
/// [`ANSWER_TIMEOUT`].
const STATEMENT_TIMEOUT: &str = "3s";
/// The shard whose writer also tries whether commits end: they do for all shards or for none.
const FIRST: Shard = Shard(0);
/// How often a connection without work is tested.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// One plan serves every batch: planning anew costs more than a plan for one batch could save. Set for the session,
/// because `SET` at the function costs at every call.
pub const ONE_PLAN: (&str, &str) = ("plan_cache_mode", "force_generic_plan");

/// Writes what the lanes of one shard hold.
#[derive(Debug)]
pub struct WriterWorker {
    shard: Shard,
    batch_rows: usize,
    database: PgConnectOptions,
    connected: Arc<AtomicBool>,
    /// Wakes the relay of this shard, if it runs in this process.
    appended: Arc<Notify>,
    lanes: Vec<Box<dyn Lane>>,
}

impl WriterWorker {
    /// A worker without lanes. `batch_rows` is how many items a call has at most; `appended` is notified after
    /// each commit.
    #[must_use]
    pub fn new(shard: Shard, batch_rows: usize, database: &PgConnectOptions, appended: Arc<Notify>) -> Self {
        let database = database.clone().options([("statement_timeout", STATEMENT_TIMEOUT), ONE_PLAN]);
        Self { shard, batch_rows, database, connected: Arc::default(), appended, lanes: Vec::new() }
    }

    /// Adds a lane. Returns the way into it.
    pub fn add<W: Work>(&mut self, work: W, measures: Measures) -> Writer<W::Item> {
        let (writer, items) = Writer::new(self.connected.clone());
        self.lanes.push(Box::new(Queued::new(work, items, measures)));
        writer
    }

    /// Works until every [`Writer`] is gone.
    pub async fn run(mut self) {
        let mut retry = Retry::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut told = false;
        while let Some(connection) = self.connect(&mut retry, &mut told).await {
            self.connected.store(true, Ordering::Relaxed);
            if mem::take(&mut told) {
                tracing::info!(shard = %self.shard, "the writer is connected to Postgres again");
            }
            if self.serve(connection, &mut retry).await == Ended::AllDone {
                return;
            }
            self.connected.store(false, Ordering::Relaxed);
            told = true; // by `serve`, or by the lane whose batch failed
        }
    }

    async fn serve(&mut self, mut connection: PgConnection, retry: &mut Retry) -> Ended {
        loop {
            // Tasks that are ready to run go first, so that their items come along.
            yield_now().await;
            match timeout(PING_INTERVAL, fill(&mut self.lanes, self.batch_rows)).await {
                Ok(Filled::Closed) => return Ended::AllDone,
                Ok(Filled::Waiting) => {}
                // A restart of Postgres in a quiet hour is noticed before the next item.
                Err(_) => {
                    match timeout(ANSWER_TIMEOUT, takes_writes(&mut connection, self.shard == FIRST)).await {
                        Ok(Ok(())) => continue,
                        lost => {
                            tracing::warn!(shard = %self.shard, "the writer has lost Postgres: {lost:?}");
                            return Ended::Disconnected;
                        }
                    }
                }
            }
            for lane in 0..self.lanes.len() {
                if let Err(Disconnected) =
                    self.lanes[lane].write(&mut connection, self.shard, &self.appended).await
                {
                    self.lanes.iter_mut().for_each(|lane| lane.refuse(WriteError::NotWritten));
                    return Ended::Disconnected;
                }
            }
            retry.reset();
        }
    }

    /// Connects, and refuses every item meanwhile. Nothing when every writer is gone. `told`: whether the log has said
    /// that Postgres is away.
    async fn connect(&mut self, retry: &mut Retry, told: &mut bool) -> Option<PgConnection> {
        let database = self.database.clone();
        let attempts = connect(&database, self.shard == FIRST, retry, told);
        tokio::pin!(attempts);
        loop {
            tokio::select! {
                connection = &mut attempts => return Some(connection),
                filled = fill(&mut self.lanes, self.batch_rows) => match filled {
                    Filled::Closed => return None,
                    Filled::Waiting => self.lanes.iter_mut().for_each(|lane| lane.refuse(WriteError::NotWritten)),
                },
            }
        }
    }
}

/// Why a worker stopped serving on a connection.
#[derive(PartialEq, Eq)]
enum Ended {
    AllDone,
    Disconnected,
}

/// Tries until there is a connection to a Postgres that takes writes.
async fn connect(
    database: &PgConnectOptions,
    commits: bool,
    retry: &mut Retry,
    told: &mut bool,
) -> PgConnection {
    loop {
        let connected = async {
            let mut connection = database.connect().await?;
            takes_writes(&mut connection, commits).await?;
            Ok::<_, sqlx::Error>(connection)
        };
        match timeout(ANSWER_TIMEOUT, connected).await {
            Ok(Ok(connection)) => return connection,
            Ok(Err(error)) if *told => tracing::debug!(%error, "connect to Postgres"),
            Err(_) if *told => tracing::debug!("Postgres does not answer"),
            Ok(Err(error)) => tracing::warn!(%error, "connect to Postgres"),
            Err(_) => tracing::warn!("Postgres does not answer"),
        }
        *told = true;
        sleep(retry.next_wait()).await;
    }
}

/// A standby answers too, and would fail every batch; so would a primary that waits for a standby which is away: its
/// commits do not end. For one writer of a process, a commit of an empty message in the WAL finds that out.
async fn takes_writes(connection: &mut PgConnection, commits: bool) -> Result<(), sqlx::Error> {
    let read_only = sqlx::query_scalar(
        "SELECT CASE WHEN current_setting('transaction_read_only')::boolean THEN true \
                     WHEN $1 THEN pg_logical_emit_message(true, 'coupon', '') IS NULL ELSE false END",
    );
    if read_only.bind(commits).fetch_one(connection).await? {
        let why = "Postgres takes no writes: a standby, or default_transaction_read_only is on";
        return Err(sqlx::Error::Configuration(why.into()));
    }
    Ok(())
}
