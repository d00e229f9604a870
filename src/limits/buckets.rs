//! Token buckets, one for each key, in bounded memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};

use crate::config::Rate;

/// Buckets that are not full, at most: about 2 MB. A bucket that is full again is as good as none.
const BUCKETS_MAX: usize = 65_536;
/// Locks that share the buckets, so that threads seldom wait for each other.
const SHARDS: usize = 64;
/// Between two searches of a shard for buckets that are full again, in nanoseconds: a search takes some microseconds.
const SWEEP_INTERVAL: u64 = 100_000_000;

/// The buckets of one limit.
#[derive(Debug)]
pub(super) struct Buckets<C: Clock = SinceStart> {
    limiter: RateLimiter<u64, Store, C, NoOpMiddleware<C::Instant>>,
}

impl Buckets {
    pub(super) fn new(rate: Rate) -> Self {
        Self::with_clock(rate, SinceStart(Instant::now()))
    }
}

impl<C: Clock> Buckets<C> {
    fn with_clock(rate: Rate, clock: C) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        let interval = Nanos::from(quota.replenish_interval()).as_u64();
        let store = Store { interval, shards: [(); SHARDS].map(|()| Mutex::default()) };
        Self { limiter: RateLimiter::new(quota, store, clock) }
    }

    /// Takes one from the bucket of a key, which is a digest that no client can choose.
    ///
    /// # Errors
    /// How long until the bucket has one, if it is empty.
    pub(super) fn take(&self, key: u64) -> Result<(), Duration> {
        let taken = self.limiter.check_key(&key);
        taken.map_err(|empty| empty.wait_time_from(self.limiter.clock().now()))
    }
}

/// A clock that never goes back.
#[derive(Debug)]
pub(super) struct SinceStart(Instant);

impl Clock for SinceStart {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// When each bucket is full again: all that the algorithm (GCRA) keeps of it.
#[derive(Debug)]
struct Store {
    /// In which a bucket gets one, in nanoseconds.
    interval: u64,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    full_at: HashMap<u64, Nanos>,
    /// That of the one bucket of all keys that find no room.
    shared: Option<Nanos>,
    /// When the shard may be searched again.
    next_sweep: u64,
}

impl Shard {
    /// Whether there is room for one more, perhaps because others are full again.
    fn has_room(&mut self, now: u64) -> bool {
        if self.full_at.len() >= BUCKETS_MAX / SHARDS && now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.full_at.retain(|_, full_at| full_at.as_u64() > now);
        }
        self.full_at.len() < BUCKETS_MAX / SHARDS
    }
}

impl StateStore for Store {
    type Key = u64;

    /// `take` takes one from a bucket that is full again at the time that it is given, or from a full one.
    fn measure_and_replace<T, F, E>(&self, key: &u64, take: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let shard = usize::try_from(key % SHARDS as u64).unwrap_or_default();
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full_at) = shard.full_at.get_mut(key) {
            let (taken, next) = take(Some(*full_at))?;
            *full_at = next;
            return Ok(taken);
        }
        let (taken, next) = take(None)?;
        // One was taken from a full bucket, which is full again an interval from now.
        if shard.has_room(next.as_u64().saturating_sub(self.interval)) {
            shard.full_at.insert(*key, next);
            return Ok(taken);
        }
        let (taken, next) = take(shard.shared)?;
        shard.shared = Some(next);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn buckets(per_second: u32, burst: u32) -> (Buckets<FakeRelativeClock>, FakeRelativeClock) {
        let rate = Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() };
        let clock = FakeRelativeClock::default();
        (Buckets::with_clock(rate, clock.clone()), clock)
    }

    fn kept(buckets: Buckets<FakeRelativeClock>) -> usize {
        let store = buckets.limiter.into_state_store();
        store.shards.iter().map(|shard| shard.lock().unwrap().full_at.len()).sum()
    }

    #[test]
    fn a_bucket_gives_a_burst_and_then_its_rate() {
        let (buckets, clock) = buckets(2, 3);
        let taken = |count| (0..count).filter(|_| buckets.take(7).is_ok()).count();
        assert_eq!(taken(9), 3);
        assert_eq!(buckets.take(7), Err(SECOND / 2));
        clock.advance(SECOND / 2);
        assert_eq!(taken(9), 1);
        clock.advance(SECOND);
        assert_eq!(taken(9), 2);
        clock.advance(100 * SECOND);
        assert_eq!(taken(9), 3, "a bucket holds no more than its burst");
        assert_eq!(buckets.take(8), Ok(()), "the bucket of another key is another one");
    }

    #[test]
    fn memory_is_bounded_and_those_who_find_no_room_share_a_bucket() {
        let (buckets, clock) = buckets(1, 10);
        let many = 4 * BUCKETS_MAX as u64;
        let refused = (0..many).filter(|key| buckets.take(*key).is_err()).count();
        // All shards are full, and the shared bucket of each has given its burst.
        assert_eq!(refused, 3 * BUCKETS_MAX - SHARDS * 10);
        assert_eq!(
            (0..9).filter(|_| buckets.take(1).is_ok()).count(),
            9,
            "a bucket that is kept is its key's own"
        );
        assert!(buckets.take(1).is_err());

        // Those that gave one are full again, and make room; the one that gave all is kept.
        clock.advance(SECOND);
        assert_eq!((many..2 * many).filter(|key| buckets.take(*key).is_ok()).count(), BUCKETS_MAX - 1 + 64);
        assert_eq!((0..9).filter(|_| buckets.take(1).is_ok()).count(), 1);
        assert_eq!(kept(buckets), BUCKETS_MAX);
    }

    #[test]
    fn a_full_shard_is_searched_now_and_then() {
        let (buckets, clock) = buckets(1_000, 1_000);
        assert!((0..BUCKETS_MAX as u64).all(|key| buckets.take(key).is_ok()));
        let newcomer = BUCKETS_MAX as u64;
        assert!((0..1_000).all(|_| buckets.take(newcomer).is_ok()), "from the shared bucket");
        clock.advance(SECOND / 20); // all buckets are full, but the shard was searched a moment ago
        assert_eq!((0..1_000).filter(|_| buckets.take(newcomer).is_ok()).count(), 50);
        clock.advance(SECOND / 20);
        assert!((0..1_000).all(|_| buckets.take(newcomer).is_ok()), "from a bucket of its own");
    }
}
