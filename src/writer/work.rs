//! What a user of the writer sees: the work to be done, the way into its lane, and what can go wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use outbox_relay::Shard;
use prometheus_client::metrics::histogram::Histogram;
use sqlx::PgConnection;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

/// Items that wait in one lane, at most; more are refused.
const QUEUE: usize = 4_096;
/// Items of one lane in progress in a process, at most, from before the gate to their answer: three full batches,
/// so that one is always ready. The queue has room for all of them, and for some whose callers have gone.
const PLACES: usize = 1_500;

/// Seconds of a call: from what Redis takes on a quiet machine to the limit of a batch.
pub const CALL_SECONDS: [f64; 13] =
    [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 4.0];
/// Items of a batch, up to the largest that there can be.
pub const BATCH_ITEMS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 350.0, 512.0];

/// What is written together, by one call of one SQL function.
pub trait Work: Send + 'static {
    /// What a caller wants written. It holds its own way to answer, or none.
    type Item: Send + 'static;
    /// What Postgres says to one item or more.
    type Answer: Send;

    /// When the caller asked.
    fn asked_at(item: &Self::Item) -> Instant;

    /// Takes out of `batch` what one call can judge; the rest waits for the next call. Never nothing.
    fn take_together(batch: &mut Vec<Self::Item>) -> Vec<Self::Item>;

    /// Writes the items in one call, which is one transaction: what it returns is committed.
    fn write(
        &mut self,
        connection: &mut PgConnection,
        shard: Shard,
        items: &[Self::Item],
    ) -> impl Future<Output = Result<Vec<Self::Answer>, sqlx::Error>> + Send;

    /// Answers every item. The one place that acts on what became of a batch.
    fn settle(&mut self, items: Vec<Self::Item>, result: Result<Vec<Self::Answer>, WriteError>);
}

/// Why items have no answer from Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// They waited too long, or the queue is full. Surely nothing is committed.
    #[error("too many wait for the writer")]
    Overloaded,
    /// Surely nothing is committed.
    #[error("nothing was written")]
    NotWritten,
    /// The connection was lost, or no answer came: it may be committed or not.
    #[error("it is not known whether the batch was written")]
    Unknown,
}

/// What one lane measures.
#[derive(Clone, Debug)]
pub struct Measures {
    /// Items in one call.
    pub batch: Histogram,
    /// Seconds of one call with its commit.
    pub commit: Histogram,
}

/// The way into one lane of a shard's writer. Clones share it.
#[derive(Debug)]
pub struct Writer<T> {
    queue: mpsc::Sender<T>,
    connected: Arc<AtomicBool>,
    places: Arc<Semaphore>,
}

impl<T> Clone for Writer<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), connected: self.connected.clone(), places: self.places.clone() }
    }
}

impl<T> Writer<T> {
    /// The way into a new lane whose worker sets `connected`, and the end of the queue for that worker.
    pub(super) fn new(connected: Arc<AtomicBool>) -> (Self, mpsc::Receiver<T>) {
        let (queue, items) = mpsc::channel(QUEUE);
        (Self { queue, connected, places: Arc::new(Semaphore::new(PLACES)) }, items)
    }

    /// Has an item written and answered. Returns it when too many wait.
    pub fn write(&self, item: T) -> Result<(), T> {
        self.queue.try_send(item).map_err(TrySendError::into_inner)
    }

    /// Waits for a place among the items in progress. Dropping the permit frees it.
    pub async fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.acquire().await.ok()
    }

    /// Places that are taken now.
    #[must_use]
    pub fn places_taken(&self) -> usize {
        PLACES - self.places.available_permits()
    }

    /// Items that wait in the queue now.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Whether the worker has a connection to Postgres.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}
