//! The worker of a shard: one connection, and the lanes that it serves in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_relay::Shard;
use outbox_relay::outage::{Link, Outage};
use outbox_relay::reason::reason_of;
use outbox_relay::retry::Retry;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::lane::{Disconnected, Filled, Lane, Queued, WRITER_TIMEOUT, fill};
use super::work::{Measures, Work, WriteError, Writer};

/// Postgres cancels a batch that takes longer, lock waits included; then surely nothing is committed. Shorter than
/// [`WRITER_TIMEOUT`].
const BATCH_STATEMENT_TIMEOUT: &str = "3s";
/// The shard whose writer also tries whether commits end: they do for all shards or for none.
const FIRST: Shard = Shard(0);
/// How often a connection without work is tested.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// One plan serves every batch: planning each batch costs more than its own plan could save. Set for the session,
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
    link: Link,
}

impl WriterWorker {
    /// A worker without lanes. `batch_rows` is how many items a call has at most; `appended` is notified after
    /// each commit.
    #[must_use]
    pub fn new(shard: Shard, batch_rows: usize, database: &PgConnectOptions, appended: Arc<Notify>) -> Self {
        let database = database.clone().options([("statement_timeout", BATCH_STATEMENT_TIMEOUT), ONE_PLAN]);
        let (connected, lanes, link) = (Arc::default(), Vec::new(), Outage::default().link());
        Self { shard, batch_rows, database, connected, appended, lanes, link }
    }

    /// Tells of an outage together with other parts of the process.
    #[must_use]
    pub fn with_outage(self, outage: &Outage) -> Self {
        Self { link: outage.link(), ..self }
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
        while let Some(connection) = self.connect(&mut retry).await {
            self.connected.store(true, Ordering::Relaxed);
            self.link.found();
            if self.serve(connection, &mut retry).await == Ended::AllDone {
                return;
            }
            self.connected.store(false, Ordering::Relaxed);
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
                    let asked = takes_writes(&mut connection, self.shard == FIRST);
                    let lost = match timeout(WRITER_TIMEOUT, asked).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(error)) => reason_of(&error),
                        Err(_) => "Postgres does not answer".to_owned(),
                    };
                    self.link.lost(&lost);
                    return Ended::Disconnected;
                }
            }
            for lane in 0..self.lanes.len() {
                let written = self.lanes[lane].write(&mut connection, self.shard, &self.appended).await;
                if let Err(Disconnected { lost }) = written {
                    if let Some(why) = lost {
                        self.link.lost(&why);
                    }
                    self.lanes.iter_mut().for_each(|lane| lane.refuse(WriteError::NotWritten));
                    return Ended::Disconnected;
                }
            }
            retry.reset();
        }
    }

    /// Connects, and refuses every item meanwhile. Nothing when every writer is gone.
    async fn connect(&mut self, retry: &mut Retry) -> Option<PgConnection> {
        let Self { shard, database, lanes, link, .. } = self;
        let attempts = connect(database, *shard, retry, link);
        tokio::pin!(attempts);
        loop {
            tokio::select! {
                connection = &mut attempts => return Some(connection),
                filled = fill(lanes, self.batch_rows) => match filled {
                    Filled::Closed => return None,
                    Filled::Waiting => lanes.iter_mut().for_each(|lane| lane.refuse(WriteError::NotWritten)),
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
    shard: Shard,
    retry: &mut Retry,
    link: &mut Link,
) -> PgConnection {
    loop {
        let connected = async {
            let mut connection = database.connect().await?;
            takes_writes(&mut connection, shard == FIRST).await?;
            Ok::<_, sqlx::Error>(connection)
        };
        match timeout(WRITER_TIMEOUT, connected).await {
            Ok(Ok(connection)) => return connection,
            Ok(Err(error)) => link.lost(&reason_of(&error)),
            Err(_) => link.lost("Postgres does not answer"),
        }
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
