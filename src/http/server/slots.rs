//! The slots of the accept loop, one for each open connection: how long each of its phases may take, and which
//! connections are closed when all slots are taken.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// For a header to arrive: from the start of a connection, or from the first byte of a later request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two requests. Longer than a proxy in front keeps an idle connection (nginx and the balancers of AWS:
/// 60 s), which might otherwise send a request just as the connection is closed.
const CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// For a client to read an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Check interval; a timeout may overrun by this much.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// While all slots are taken, the interval at which connections are closed to free one.
const CROWDED_INTERVAL: Duration = Duration::from_millis(50);
/// One in this many waiting connections is then closed, so that not every new connection searches all slots.
const EVICTED_SHARE: usize = 64;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client to send a header: it has begun one, or the connection is new.
    Header,
    /// The client to send its next request: all earlier ones are answered.
    Idle,
    /// The client to send more of a body. The reader of the body has a time limit for all of it.
    Body,
    /// The service to answer.
    Work,
    /// The client to read the answer.
    Answer,
}

impl Phase {
    fn limit(self) -> Option<Duration> {
        match self {
            Self::Header => Some(HEADER_TIMEOUT),
            Self::Idle => Some(CONNECTION_IDLE_TIMEOUT),
            Self::Answer => Some(READ_TIMEOUT),
            Self::Body | Self::Work => None,
        }
    }
}

/// The slot of one connection, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    at: Mutex<(Phase, Instant)>,
    eviction: Notify,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    /// Enters phase `to`, if the connection is in phase `from`.
    pub(super) fn turn(&self, from: Phase, to: Phase) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if at.0 == from {
            *at = (to, Instant::now());
        }
    }

    /// Enters `phase`.
    pub(super) fn begin(&self, phase: Phase) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = (phase, Instant::now());
    }

    /// Waits until the connection must be closed.
    pub(super) async fn evicted(&self) {
        self.eviction.notified().await;
    }

    fn at(&self) -> (Phase, Instant) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All slots.
#[derive(Debug)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    taken: Mutex<Vec<Weak<Slot>>>,
}

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), taken: Mutex::default() }
    }

    /// Takes a slot. While there is none, the connections that have waited longest for their clients are closed;
    /// never one whose request is being answered.
    pub(super) async fn take(&self) -> Arc<Slot> {
        loop {
            if let Ok(permit) = self.free.clone().try_acquire_owned() {
                return self.taken_with(permit);
            }
            self.evict();
            if let Ok(Ok(permit)) = timeout(CROWDED_INTERVAL, self.free.clone().acquire_owned()).await {
                return self.taken_with(permit);
            }
        }
    }

    fn taken_with(&self, permit: OwnedSemaphorePermit) -> Arc<Slot> {
        let at = Mutex::new((Phase::Header, Instant::now()));
        let slot = Arc::new(Slot { at, eviction: Notify::new(), _permit: permit });
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&slot));
        slot
    }

    /// Closes some of the connections that wait for their clients, the longest waiting first.
    pub(super) fn evict(&self) {
        let mut waiting: Vec<_> = self.all().into_iter().filter(|slot| slot.at().0 != Phase::Work).collect();
        let evicted = waiting.len().div_ceil(EVICTED_SHARE);
        waiting.sort_by_cached_key(|slot| slot.at().1);
        for slot in waiting.iter().take(evicted) {
            slot.eviction.notify_one();
        }
    }

    /// Closes every connection whose phase takes longer than it may.
    pub(super) async fn watch(&self) -> Infallible {
        loop {
            sleep(CHECK_INTERVAL).await;
            for slot in self.all() {
                let (phase, since) = slot.at();
                if phase.limit().is_some_and(|limit| since.elapsed() > limit) {
                    slot.eviction.notify_one();
                }
            }
        }
    }

    fn all(&self) -> Vec<Arc<Slot>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = taken.iter().filter_map(Weak::upgrade).collect();
        taken.retain(|slot| slot.strong_count() > 0);
        all
    }
}
