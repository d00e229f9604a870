//! The places of the accept loop: who holds one, how long he is waited for, and who has to leave when
//! somebody else wants in.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// For a header: from the first moment of a connection, or from the first byte of a later request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two requests. Longer than a proxy in front keeps a connection (nginx and the balancers of AWS:
/// 60 s), or else it would send a request just when the connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// For a client to take an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// So often it is looked whose time is over: by so much it may be longer.
const ROUND: Duration = Duration::from_millis(500);
/// So often somebody is asked to leave when all places are taken and none gets free.
const CROWDED_ROUND: Duration = Duration::from_millis(50);
/// One of so many has to leave then, so that not every newcomer looks at all places.
const LEAVING: usize = 64;

/// What a connection is at, and by that who is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client: a header has begun, or the connection is new.
    Header,
    /// The client: all its requests are answered.
    Idle,
    /// The client: a part of a body. Who reads the body has a limit for all of it.
    Body,
    /// The service.
    Work,
    /// The client: it is to take the answer.
    Answer,
}

impl Phase {
    fn limit(self) -> Option<Duration> {
        match self {
            Self::Header => Some(HEADER_TIMEOUT),
            Self::Idle => Some(IDLE_TIMEOUT),
            Self::Answer => Some(ANSWER_TIMEOUT),
            Self::Body | Self::Work => None,
        }
    }
}

/// The place of one connection, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    at: Mutex<(Phase, Instant)>,
    leave: Notify,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// The connection is at `to` now, if it was at `from`.
    pub(super) fn turn(&self, from: Phase, to: Phase) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if at.0 == from {
            *at = (to, Instant::now());
        }
    }

    /// The connection is at `phase` now.
    pub(super) fn begin(&self, phase: Phase) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = (phase, Instant::now());
    }

    /// Waits until the connection has to be closed.
    pub(super) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }

    fn at(&self) -> (Phase, Instant) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    taken: Mutex<Vec<Weak<Place>>>,
}

impl Places {
    pub(super) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), taken: Mutex::default() }
    }

    /// A place. When there is none, those have to leave who have kept us waiting longest; never one whose
    /// request is being worked on.
    pub(super) async fn take(&self) -> Arc<Place> {
        loop {
            if let Ok(permit) = self.free.clone().try_acquire_owned() {
                return self.taken_with(permit);
            }
            self.make_room();
            if let Ok(Ok(permit)) = timeout(CROWDED_ROUND, self.free.clone().acquire_owned()).await {
                return self.taken_with(permit);
            }
        }
    }

    fn taken_with(&self, permit: OwnedSemaphorePermit) -> Arc<Place> {
        let at = Mutex::new((Phase::Header, Instant::now()));
        let place = Arc::new(Place { at, leave: Notify::new(), _permit: permit });
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&place));
        place
    }

    /// Asks some of those to leave for whom we wait.
    pub(super) fn make_room(&self) {
        let mut waited_for: Vec<_> =
            self.all().into_iter().filter(|place| place.at().0 != Phase::Work).collect();
        let leaving = waited_for.len().div_ceil(LEAVING);
        waited_for.sort_by_cached_key(|place| place.at().1);
        for place in &waited_for[..leaving] {
            place.leave.notify_one();
        }
    }

    /// Sees to it that nobody is waited for longer than his time.
    pub(super) async fn watch(&self) -> Infallible {
        loop {
            sleep(ROUND).await;
            for place in self.all() {
                let (phase, since) = place.at();
                if phase.limit().is_some_and(|limit| since.elapsed() > limit) {
                    place.leave.notify_one();
                }
            }
        }
    }

    fn all(&self) -> Vec<Arc<Place>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = taken.iter().filter_map(Weak::upgrade).collect();
        taken.retain(|place| place.strong_count() > 0);
        all
    }
}
