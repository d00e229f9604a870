//! A key set that stands behind a URL: fetched again and again, one fetch at a time, with the last good set kept.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use outbox_relay::reason::reason_of;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::fetch::Fetcher;
use crate::config::Authorities;
use crate::jwk::KeySet;

/// Requests that wait at a time for a fetch, at most; others are refused without waiting. Each holds a place of the API.
const WAITING_MAX: usize = 64;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// From one good fetch to the next: a key that the issuer withdraws is accepted no longer than this.
    pub(super) every: Duration,
    /// From a fetch that failed to the next.
    pub(super) retry: Duration,
    /// From the beginning of one fetch to that of the next, for a key that is not known.
    pub(super) apart: Duration,
    /// For one fetch.
    pub(super) answer: Duration,
    /// For a request that waits for a fetch.
    pub(super) wait: Duration,
    /// How old the last good set may be.
    pub(super) keep: Duration,
}

impl Pace {
    /// That of the service.
    pub(super) const SERVICE: Self = Self {
        every: Duration::from_secs(10 * 60),
        retry: Duration::from_secs(30),
        apart: Duration::from_secs(30),
        answer: Duration::from_secs(10),
        wait: Duration::from_secs(2),
        keep: Duration::from_secs(24 * 60 * 60),
    };
}

/// The key set behind a URL.
#[derive(Debug)]
pub(super) struct Remote {
    fetcher: Fetcher,
    pace: Pace,
    held: RwLock<Option<Held>>,
    fetches: watch::Sender<Fetches>,
    wanted: Notify,
    waiting: Semaphore,
}

/// The last good set.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) set: Arc<KeySet>,
    /// Rises with each set that differs from the one before.
    pub(super) revision: u64,
    fetched: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Fetches {
    started: Option<Instant>,
    is_running: bool,
    done: u64,
}

impl Fetches {
    fn may_start(&self, apart: Duration, now: Instant) -> bool {
        self.started.is_none_or(|started| now.saturating_duration_since(started) >= apart)
    }
}

impl Remote {
    pub(super) fn new(url: String, authorities: Option<Authorities>, pace: Pace) -> Self {
        Self {
            fetcher: Fetcher::new(url, authorities, pace.answer),
            pace,
            held: RwLock::default(),
            fetches: watch::Sender::default(),
            wanted: Notify::new(),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }

    /// The last good set, however old it is.
    pub(super) fn held(&self) -> Option<Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a set is too old to be used.
    pub(super) fn is_too_old(&self, held: &Held, now: Instant) -> bool {
        held.age(now) > self.pace.keep
    }

    /// Fetches the set at once, and then whenever it is due or wanted. Never returns.
    pub(super) async fn run(&self) -> Infallible {
        loop {
            let pause = if self.fetch().await { self.pace.every } else { self.pace.retry };
            let due = sleep(pause);
            tokio::pin!(due);
            loop {
                tokio::select! {
                    () = &mut due => break,
                    () = self.wanted.notified() => if self.may_start() { break },
                }
            }
        }
    }

    /// Waits for a fetch that begins now or is on its way, if the last one began long enough ago.
    pub(super) async fn renewed(&self) {
        let mut fetches = self.fetches.subscribe();
        let seen = *fetches.borrow_and_update();
        if !seen.is_running && !seen.may_start(self.pace.apart, Instant::now()) {
            return;
        }
        let Ok(_place) = self.waiting.try_acquire() else { return };
        if !seen.is_running {
            self.wanted.notify_one();
        }
        // Whether it came or not, the caller looks again at what there is.
        let _came = timeout(self.pace.wait, fetches.wait_for(|fetches| fetches.done > seen.done)).await;
    }

    fn may_start(&self) -> bool {
        self.fetches.borrow().may_start(self.pace.apart, Instant::now())
    }

    /// Whether a good set came.
    async fn fetch(&self) -> bool {
        self.fetches.send_modify(|fetches| {
            fetches.started = Some(Instant::now());
            fetches.is_running = true;
        });
        let fetched = self.fetcher.fetch().await;
        let is_good = fetched.is_ok();
        match fetched {
            Ok(set) => self.hold(set),
            Err(error) => {
                let age = self.held().map(|held| held.age(Instant::now()));
                tracing::warn!(
                    age_seconds = age.map(|age| age.as_secs()),
                    "the keys for tokens of users cannot be fetched from JWT_KEYS; the last good ones are used until they are \
                     {} h old: {}",
                    self.pace.keep.as_secs() / 3_600,
                    reason_of(error.as_ref())
                );
            }
        }
        self.fetches.send_modify(|fetches| {
            fetches.is_running = false;
            fetches.done += 1;
        });
        is_good
    }

    fn hold(&self, set: KeySet) {
        let fetched = Instant::now();
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        *held = Some(match held.take() {
            Some(last) if *last.set == set => Held { fetched, ..last },
            last => Held { set: Arc::new(set), revision: last.map_or(0, |last| last.revision + 1), fetched },
        });
    }
}

impl Held {
    /// The time since it was fetched.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.fetched)
    }
}
