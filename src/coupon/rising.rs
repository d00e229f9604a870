//! Ids that a writer gives to coupons and their events: they rise, and few of them have the time of the same millisecond.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ulid::{Generator, Ulid};

/// Ids with the time of one millisecond, at most. The code of a coupon tells its millisecond, among whose coupons it is
/// then looked for. One batch makes this many.
const OF_ONE_MS: u32 = 1_000;

/// A clock that is set back by more than this was wrong before: ids go on by the new time.
const LEAD_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Makes ids that rise, also while the clock stands still or is set back by up to [`LEAD_MAX`]: then their times run ahead
/// of it, by a millisecond for each [`OF_ONE_MS`].
#[derive(Debug)]
pub(crate) struct RisingIds {
    generator: Generator,
    /// The time of the last id, in milliseconds since 1970, and how many ids have it.
    last: (u64, u32),
}

impl RisingIds {
    pub(crate) fn new() -> Self {
        Self { generator: Generator::new(), last: (0, 0) }
    }

    pub(crate) fn generate(&mut self) -> Ulid {
        self.generate_at(SystemTime::now())
    }

    fn generate_at(&mut self, now: SystemTime) -> Ulid {
        let (ms, count) = self.last;
        let next = UNIX_EPOCH + Duration::from_millis(ms + u64::from(count >= OF_ONE_MS));
        if now + LEAD_MAX < next {
            *self = Self::new();
            return self.generate_at(now);
        }
        let id = self.generator.generate_from_datetime(now.max(next));
        let id = id.unwrap_or_else(|_| Ulid::generate()); // the random bits are used up: once in 2^60 milliseconds
        self.last = (id.timestamp_ms(), if id.timestamp_ms() == ms { count + 1 } else { 1 });
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_and_share_their_milliseconds_with_few_whatever_the_clock_does() {
        let mut ids = RisingIds::new();
        let start = UNIX_EPOCH + Duration::from_secs(1_795_881_600);
        let hour = Duration::from_secs(3_600);
        // It stands still, goes on by a second, and is set back by an hour.
        let times = [start, start + Duration::from_secs(1), start - hour];
        let all = times.iter().flat_map(|now| vec![*now; 5_500]).map(|now| ids.generate_at(now));
        let all: Vec<Ulid> = all.collect();
        assert!(all.is_sorted_by(|one, other| one < other));
        let shared = all.chunk_by(|one, other| one.timestamp_ms() == other.timestamp_ms());
        assert_eq!(shared.map(<[_]>::len).max(), Some(1_000));
        let ahead = all.last().map(|last| last.timestamp_ms() - all[5_500].timestamp_ms());
        assert_eq!(ahead, Some(10), "milliseconds for 11,000 ids");
        let back = ids.generate_at(start - 30 * hour).timestamp_ms();
        assert_eq!(Some(back), all.first().map(|first| first.timestamp_ms() - 30 * 3_600_000));
    }
}
