//! Spreads events over time.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// A delay of up to this much is made up for, so that late timers do not lower the rate. A longer stall is not,
/// so that no burst follows it.
const SLACK: Duration = Duration::from_millis(50);

/// Spreads events evenly over time. Callers pass the time; this reads no clock.
#[derive(Debug)]
pub(super) struct Pace {
    /// The time between two events; zero without a rate.
    interval: Duration,
    due: Instant,
}

impl Pace {
    /// At most `rate` events a second from `now` on; without a rate, no waits.
    pub(super) fn new(rate: Option<NonZeroU32>, now: Instant) -> Self {
        let interval = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.get());
        Self { interval, due: now }
    }

    /// When the next event may be sent. Call it once for each event.
    pub(super) fn next(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        let due = self.due.max(earliest);
        self.due = due + self.interval;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// When `count` events are sent, if each wait ends late by `delay`.
    fn departures(rate: u32, count: u32, delay: impl Fn(u32) -> Duration) -> Vec<Duration> {
        let start = Instant::now();
        let mut pace = Pace::new(NonZeroU32::new(rate), start);
        let mut now = start;
        let depart = |number| {
            let due = pace.next(now);
            if due > now {
                now = due + delay(number);
            }
            now - start
        };
        (0..count).map(depart).collect()
    }

    #[test]
    fn events_are_spread_evenly() {
        let times = departures(200, 601, |_| Duration::ZERO);
        let even: Vec<_> = (0..601).map(|number| number * SECOND / 200).collect();
        assert_eq!(times, even);
    }

    #[test]
    fn waits_that_end_late_do_not_slow_it_down() {
        let times = departures(2_000, 20_001, |_| Duration::from_millis(3));
        assert!((10 * SECOND..10 * SECOND + 2 * SLACK).contains(&times[20_000]), "{:?}", times[20_000]);
    }

    #[test]
    fn no_second_ever_has_more_than_the_rate_and_the_slack() {
        // Every thousandth wait stalls for three seconds.
        let stalls = |number: u32| if number.is_multiple_of(1_000) { 3 * SECOND } else { Duration::ZERO };
        let times = departures(1_000, 10_000, stalls);
        let allowed = 1_000 + 50 + 1;
        for (number, time) in times.iter().enumerate() {
            let within = times[number..].partition_point(|later| *later < *time + SECOND);
            assert!(within <= allowed, "{within} in the second behind {time:?}");
        }
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        assert_eq!(departures(0, 1_000, |_| SECOND), [Duration::ZERO; 1_000]);
    }
}
