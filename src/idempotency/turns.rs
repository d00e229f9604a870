//! Turns: of the requests with one key, a process works on one at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{KeyError, Keyed};

/// For the request with the same key that came before: longer than a claim or a change takes while Postgres answers.
pub const TURN_WAIT_MAX: Duration = Duration::from_secs(5);

/// The keys that a process works on. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<HashMap<Uuid, Arc<Semaphore>>>>);

/// From one attempt to the next while another process works on a request with the same key.
const INTERVAL: Duration = Duration::from_millis(50);

/// The turn of a request. It ends when this is dropped.
#[derive(Debug)]
pub struct Turn {
    /// Nothing for a request without a key.
    _key: Option<KeyTurn>,
    /// When the wait for other processes ends.
    end: Instant,
}

#[derive(Debug)]
struct KeyTurn {
    key: Uuid,
    turns: Turns,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// Waits for the turn of a request, up to [`TURN_WAIT_MAX`]. A request without a key waits for nobody. There are no
    /// more keys here than requests in progress.
    ///
    /// # Errors
    /// [`KeyError::InUse`] when the time is up.
    pub async fn take_for(&self, keyed: Option<&Keyed>) -> Result<Turn, KeyError> {
        let end = Instant::now() + TURN_WAIT_MAX;
        let key = match keyed {
            Some(keyed) => Some(self.take(keyed.key()).await?),
            None => None,
        };
        Ok(Turn { _key: key, end })
    }

    async fn take(&self, key: Uuid) -> Result<KeyTurn, KeyError> {
        let semaphore = {
            let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            keys.entry(key).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
        };
        let mut turn = KeyTurn { key, turns: self.clone(), permit: None };
        let permit = timeout(TURN_WAIT_MAX, semaphore.acquire_owned()).await;
        turn.permit = permit.ok().and_then(Result::ok);
        if turn.permit.is_some() { Ok(turn) } else { Err(KeyError::InUse) }
    }
}

impl Turn {
    /// Waits a moment for a request with the same key in another process; false when the time is up.
    pub async fn may_go_on(&self) -> bool {
        sleep(INTERVAL).await;
        Instant::now() < self.end
    }
}

impl Drop for KeyTurn {
    /// The last request with the key removes it: the table and the permit of this turn are then all that hold its semaphore.
    fn drop(&mut self) {
        let mut keys = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = 1 + usize::from(self.permit.is_some());
        if keys.get(&self.key).is_some_and(|semaphore| Arc::strong_count(semaphore) == held) {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cause::{Cause, IdempotencyKey};
    use crate::identity::Principal;

    fn keyed(key: &str) -> Keyed {
        let cause = Cause { key: IdempotencyKey::parse(key), ..Cause::of(Principal::Administrator) };
        Keyed::of(&cause, "claim", "", b"").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_nothing_stays() {
        let turns = Turns::default();
        let first = turns.take_for(Some(&keyed("a"))).await.unwrap();
        drop(turns.take_for(Some(&keyed("b"))).await.unwrap());
        assert!(matches!(turns.take_for(Some(&keyed("a"))).await, Err(KeyError::InUse)));
        let (a, waiting) = (keyed("a"), turns.clone());
        let second = tokio::spawn(async move { waiting.take_for(Some(&a)).await });
        tokio::task::yield_now().await;
        drop(first);
        let second = second.await.unwrap().unwrap();
        assert_eq!(turns.0.lock().unwrap().len(), 1);
        drop(second);
        assert!(turns.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_leaves_nothing() {
        let turns = Turns::default();
        let first = turns.take_for(Some(&keyed("a"))).await.unwrap();
        let (a, waiting) = (keyed("a"), turns.clone());
        let second = tokio::spawn(async move { waiting.take_for(Some(&a)).await });
        tokio::task::yield_now().await;
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        drop(first);
        assert!(turns.0.lock().unwrap().is_empty());
    }
}
