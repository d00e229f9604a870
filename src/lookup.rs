//! Lookups in Postgres that are made together. While a statement is in flight, questions queue up; the next statement
//! asks all of them. A crowd of readers costs few statements, and nobody waits for a timer.
//!
//! A second statement begins beside the first as soon as it has as many questions to ask as are in flight, or when the
//! first has been slow. So a crowd is not split into small batches (with two statements whenever there was a question, 256
//! readers of one campaign got 0.7 to 0.95 of the answers), and a slow statement holds up others for [`SLOW_AFTER`] only.
//!
//! A question is asked by a statement that begins after it: a caller that was just told of a row finds it.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Debug, Formatter};
use std::hash::Hash;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures_util::FutureExt as _;
use outbox_relay::zoo;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::pool::Pool;
use crate::storage::{self, StorageError, is_unreadable, panicked};

/// Questions that wait, at most; more are refused. Above the requests that a shard has in progress.
const QUEUE: usize = 8_192;
/// Statements in flight at the same time, of the few connections of the pool.
const STATEMENTS_AT_ONCE: usize = 2;
/// For one answer, with the statement before it. A claim must be answered within 8 s while Postgres hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// From then on a statement is slow, and no longer holds up the questions behind it. One takes a few milliseconds.
const SLOW_AFTER: Duration = Duration::from_millis(50);

/// A statement that answers several questions.
pub(crate) trait Lookup: 'static {
    type Key: Clone + Eq + Hash + Send + Sync + 'static;
    type Found: Clone + Send + 'static;

    /// Questions in one statement, at most, so that it takes some milliseconds.
    const BATCH: usize;

    /// What there is for each of `keys`, which all differ. A key without an entry has nothing.
    fn read(
        pool: &Pool,
        keys: &[Self::Key],
    ) -> impl Future<Output = Result<HashMap<Self::Key, Self::Found>, sqlx::Error>> + Send;
}

/// The way to ask. Cheap to clone.
pub(crate) struct Lookups<L: Lookup> {
    queue: mpsc::Sender<Question<L>>,
    flight: Arc<Flight>,
}

/// The questions in flight.
#[derive(Debug, Default)]
struct Flight {
    questions: AtomicUsize,
    /// A statement was answered, or as many questions wait as are in flight.
    changed: Notify,
}

struct Question<L: Lookup> {
    key: L::Key,
    answer: oneshot::Sender<Result<Option<L::Found>, StorageError>>,
}

impl<L: Lookup> Clone for Lookups<L> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), flight: self.flight.clone() }
    }
}

impl<L: Lookup> Debug for Lookups<L> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookups").field("places", &self.queue.capacity()).finish_non_exhaustive()
    }
}

impl<L: Lookup> Lookups<L> {
    /// Starts a task that asks Postgres. It ends when the last clone of this is dropped.
    pub(crate) fn start(pool: Pool) -> Self {
        let (queue, questions) = mpsc::channel(QUEUE);
        let flight = Arc::<Flight>::default();
        tokio::spawn(ask_all::<L>(pool, questions, flight.clone()));
        Self { queue, flight }
    }

    /// What there is for a key.
    ///
    /// # Errors
    /// When Postgres does not answer in time, too many questions wait, or what there is cannot be read.
    pub(crate) async fn get(&self, key: L::Key) -> Result<Option<L::Found>, StorageError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Question { key, answer }).map_err(|_| StorageError::Overloaded)?;
        self.flight.has_waiting(QUEUE - self.queue.capacity());
        match timeout(ANSWER_TIMEOUT, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(sqlx::Error::PoolTimedOut.into()),
        }
    }
}

impl Flight {
    /// Wakes the task that asks if this number of waiting questions is worth a statement beside that in flight.
    fn has_waiting(&self, questions: usize) {
        let in_flight = self.questions.load(SeqCst);
        if in_flight > 0 && questions >= in_flight {
            self.changed.notify_one();
        }
    }
}

async fn ask_all<L: Lookup>(pool: Pool, mut questions: mpsc::Receiver<Question<L>>, flight: Arc<Flight>) {
    let turns = Arc::new(Semaphore::new(STATEMENTS_AT_ONCE));
    let (mut asked, mut is_slow) = (Vec::new(), false);
    loop {
        let in_flight = flight.questions.load(SeqCst);
        let least = if is_slow { in_flight.min(1) } else { in_flight };
        let turn = turns.clone().try_acquire_owned().ok();
        let Some(turn) = turn.filter(|_| questions.len() >= least) else {
            is_slow = timeout(SLOW_AFTER, flight.changed.notified()).await.is_err();
            continue;
        };
        is_slow = false;
        if questions.recv_many(&mut asked, L::BATCH).await == 0 {
            return;
        }
        let (pool, asked) = (pool.clone(), mem::take(&mut asked));
        let statement = Statement::new(flight.clone(), asked.len(), turn);
        tokio::spawn(async move {
            ask::<L>(&pool, asked).await;
            drop(statement);
        });
    }
}

/// A statement in flight, until it is dropped: whether it was answered, or its task has panicked.
struct Statement {
    flight: Arc<Flight>,
    questions: usize,
    turn: Option<OwnedSemaphorePermit>,
}

impl Statement {
    fn new(flight: Arc<Flight>, questions: usize, turn: OwnedSemaphorePermit) -> Self {
        flight.questions.fetch_add(questions, SeqCst);
        Self { flight, questions, turn: Some(turn) }
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        self.flight.questions.fetch_sub(self.questions, SeqCst);
        drop(self.turn.take()); // before the task that asks looks for it
        self.flight.changed.notify_one();
    }
}

/// Asks each key once, and tells all who wait for it.
async fn ask<L: Lookup>(pool: &Pool, mut asked: Vec<Question<L>>) {
    let keys: HashSet<&L::Key> = asked.iter().map(|question| &question.key).collect();
    let keys: Vec<L::Key> = keys.into_iter().cloned().collect();
    let (found, failed) = read::<L>(pool, &keys).await;
    if zoo::has("readers-get-the-answers-of-others")
        && let [first, .., last] = &mut asked[..]
    {
        mem::swap(&mut first.key, &mut last.key);
    }
    for Question { key, answer } in asked {
        let found = failed.get(&key).map_or_else(|| Ok(found.get(&key).cloned()), |error| Err(error.clone()));
        drop(answer.send(found));
    }
}

/// What there is for each of `keys`, and why some were not read. If a row cannot be read, or makes the driver panic, each
/// half of the keys is asked again by itself, so that it fails only those who ask for it.
async fn read<L: Lookup>(
    pool: &Pool,
    keys: &[L::Key],
) -> (HashMap<L::Key, L::Found>, HashMap<L::Key, StorageError>) {
    let (mut found, mut failed, mut parts) = (HashMap::new(), HashMap::new(), vec![keys]);
    while let Some(part) = parts.pop() {
        let there = AssertUnwindSafe(timeout(ANSWER_TIMEOUT, storage::read(pool, || L::read(pool, part))));
        let there = there.catch_unwind().await.unwrap_or_else(|_| Ok(Err(panicked())));
        match there.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            Ok(there) => found.extend(there),
            Err(error) if part.len() > 1 && is_unreadable(&error) => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([first, second]);
            }
            Err(error) => {
                // What is not of one row will be no better for the others.
                let rest = if is_unreadable(&error) { Vec::new() } else { mem::take(&mut parts) };
                let error = StorageError::from(error);
                let keys = rest.into_iter().chain([part]).flatten();
                failed.extend(keys.map(|key| (key.clone(), error.clone())));
            }
        }
    }
    (found, failed)
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::iter::once;

    use futures_util::future::{Either, join_all, select};

    use super::*;

    /// A key whose statement is never answered, and one whose statement panics.
    const STUCK: u32 = 1;
    const BROKEN: u32 = 2;
    static IS_STUCK: Notify = Notify::const_new();

    struct Same;

    impl Lookup for Same {
        type Key = u32;
        type Found = u32;

        const BATCH: usize = 100;

        async fn read(_: &Pool, keys: &[u32]) -> Result<HashMap<u32, u32>, sqlx::Error> {
            assert!(!keys.contains(&BROKEN), "as asked");
            if keys.contains(&STUCK) {
                IS_STUCK.notify_one();
                pending::<()>().await;
            }
            Ok(keys.iter().map(|key| (*key, *key)).collect())
        }
    }

    /// Nothing connects to the address.
    fn start() -> Lookups<Same> {
        Lookups::start(Pool::new(&"postgres://127.0.0.1:1/none".parse().unwrap(), 1).unwrap())
    }

    #[tokio::test]
    async fn a_slow_statement_of_many_does_not_hold_up_a_single_question() {
        let lookups = start();
        let crowd = join_all(once(STUCK).chain(3..40).map(|key| lookups.get(key)));
        let single = async {
            IS_STUCK.notified().await;
            lookups.get(50).await
        };
        match select(Box::pin(single), crowd).await {
            Either::Left((found, _)) => assert_eq!(found.unwrap(), Some(50)),
            Either::Right((crowd, _)) => panic!("the crowd was answered first: {crowd:?}"),
        }
    }

    #[tokio::test]
    async fn a_statement_that_panics_holds_up_no_other() {
        let lookups = start();
        for key in 3..6 {
            let together = join_all([key, BROKEN, key + 10].map(|key| lookups.get(key))).await;
            let [before, broken, behind] = &together[..] else { panic!("three answers") };
            assert!(matches!(broken, Err(StorageError::Refused(_))), "{broken:?}");
            assert!(matches!((before, behind), (Ok(Some(_)), Ok(Some(_)))), "{together:?}");
            assert_eq!(lookups.get(key).await.unwrap(), Some(key));
        }
        assert_eq!(lookups.flight.questions.load(SeqCst), 0, "questions in flight");
    }
}
