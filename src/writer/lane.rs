//! A lane: one kind of work, its queue, and the group commit of its batches.

use std::fmt::Debug;
use std::future::poll_fn;
use std::mem;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use outbox_relay::Shard;
use outbox_relay::reason::reason_of;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::work::{Measures, Work, WriteError};
use crate::failpoint;
use crate::storage::is_stale;

/// An item that has waited longer for the writer is refused: a caller that retries then may find a shorter queue,
/// and nobody waits for all the batches ahead while Postgres is slow. Half of [`WRITER_TIMEOUT`].
const WAIT_MAX: Duration = Duration::from_secs(2);
/// A batch that is not answered within this time may be committed or not. Longer than the limit of the statement.
pub(super) const WRITER_TIMEOUT: Duration = Duration::from_secs(4);

/// What [`fill`] found.
pub(super) enum Filled {
    /// At least one lane has items.
    Waiting,
    /// No lane has items, and every writer is gone.
    Closed,
}

/// The session cannot be used any more.
pub(super) struct Disconnected {
    /// Why Postgres seems to be away. Nothing if it refused a batch, of which the log tells.
    pub(super) lost: Option<String>,
}

/// A lane whose kind of work is not known here.
pub(super) trait Lane: Debug + Send {
    /// Takes what is queued, up to `rows` items. Ready when items wait, or when the queue is closed for good.
    fn poll_fill(&mut self, cx: &mut Context<'_>, rows: usize) -> Poll<Filled>;

    /// Writes one batch of what waits and settles it. `appended` is notified after the commit.
    fn write<'a>(
        &'a mut self,
        connection: &'a mut PgConnection,
        shard: Shard,
        appended: &'a Notify,
    ) -> BoxFuture<'a, Result<(), Disconnected>>;

    /// Settles all that waits with an error.
    fn refuse(&mut self, why: WriteError);
}

/// Waits until at least one lane has items, or all are closed.
pub(super) async fn fill(lanes: &mut [Box<dyn Lane>], rows: usize) -> Filled {
    poll_fn(|cx| {
        let (mut waiting, mut pending) = (false, false);
        for lane in &mut *lanes {
            match lane.poll_fill(cx, rows) {
                Poll::Ready(Filled::Waiting) => waiting = true,
                Poll::Ready(Filled::Closed) => {}
                Poll::Pending => pending = true,
            }
        }
        match (waiting, pending) {
            (true, _) => Poll::Ready(Filled::Waiting),
            (false, true) => Poll::Pending,
            (false, false) => Poll::Ready(Filled::Closed),
        }
    })
    .await
}

/// One kind of work, and what waits for it.
pub(super) struct Queued<W: Work> {
    work: W,
    items: mpsc::Receiver<W::Item>,
    /// Taken from the queue, not yet written.
    waiting: Vec<W::Item>,
    open: bool,
    measures: Measures,
}

impl<W: Work> Debug for Queued<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queued").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl<W: Work> Lane for Queued<W> {
    fn poll_fill(&mut self, cx: &mut Context<'_>, rows: usize) -> Poll<Filled> {
        if !self.waiting.is_empty() {
            return Poll::Ready(Filled::Waiting);
        }
        if !self.open {
            return Poll::Ready(Filled::Closed);
        }
        match self.items.poll_recv_many(cx, &mut self.waiting, rows) {
            Poll::Ready(0) => {
                self.open = false;
                Poll::Ready(Filled::Closed)
            }
            Poll::Ready(_) => Poll::Ready(Filled::Waiting),
            Poll::Pending => Poll::Pending,
        }
    }

    fn write<'a>(
        &'a mut self,
        connection: &'a mut PgConnection,
        shard: Shard,
        appended: &'a Notify,
    ) -> BoxFuture<'a, Result<(), Disconnected>> {
        Box::pin(self.write_batch(connection, shard, appended))
    }

    fn refuse(&mut self, why: WriteError) {
        if !self.waiting.is_empty() {
            self.work.settle(mem::take(&mut self.waiting), Err(why));
        }
    }
}

impl<W: Work> Queued<W> {
    pub(super) fn new(work: W, items: mpsc::Receiver<W::Item>, measures: Measures) -> Self {
        Self { work, items, waiting: Vec::new(), open: true, measures }
    }

    async fn write_batch(
        &mut self,
        connection: &mut PgConnection,
        shard: Shard,
        appended: &Notify,
    ) -> Result<(), Disconnected> {
        let overdue: Vec<_> =
            self.waiting.extract_if(.., |item| W::asked_at(item).elapsed() > WAIT_MAX).collect();
        if !overdue.is_empty() {
            tracing::debug!(%shard, items = overdue.len(), "items have waited too long");
            self.work.settle(overdue, Err(WriteError::Overloaded));
        }
        if self.waiting.is_empty() {
            return Ok(());
        }
        let together = W::take_together(&mut self.waiting);
        failpoint::reached("writer.took").await;
        let started = Instant::now();
        let mut written = timeout(WRITER_TIMEOUT, self.work.write(connection, shard, &together)).await;
        // A stale statement has written nothing: prepared again, it is not.
        if let Ok(Err(error)) = &written
            && is_stale(error)
            && timeout(WRITER_TIMEOUT, connection.clear_cached_statements())
                .await
                .is_ok_and(|done| done.is_ok())
        {
            written = timeout(WRITER_TIMEOUT, self.work.write(connection, shard, &together)).await;
        }
        let mut lost = None;
        let result = match written {
            Ok(Ok(answers)) => Ok(answers),
            Ok(Err(error)) if is_rolled_back(&error) => {
                tracing::warn!(%shard, items = together.len(), error = &error as &dyn std::error::Error, "a batch was not written");
                Err(WriteError::NotWritten)
            }
            Ok(Err(error)) => {
                lost = Some(format!("a batch was not written: {}", reason_of(&error)));
                Err(WriteError::Unknown)
            }
            Err(_) => {
                lost = Some("Postgres does not answer".to_owned());
                Err(WriteError::Unknown)
            }
        };
        if result.is_ok() {
            appended.notify_one();
            self.measures.commit.observe(started.elapsed().as_secs_f64());
            #[expect(clippy::cast_precision_loss, reason = "at most the rows of a batch")]
            self.measures.batch.observe(together.len() as f64);
        }
        failpoint::reached("writer.committed").await;
        let settled = if result.is_ok() { Ok(()) } else { Err(Disconnected { lost }) };
        self.work.settle(together, result);
        failpoint::reached("writer.settled").await;
        settled
    }
}

/// An answer of the severity ERROR rolls back. FATAL, or no answer at all, may come after the commit.
fn is_rolled_back(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .is_some_and(|error| error.severity() == PgSeverity::Error)
}
