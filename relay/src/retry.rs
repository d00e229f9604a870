//! The waits between attempts. Only this file uses the crate `backoff`.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// Waits that grow by half each time, up to a longest one, with jitter, so that many processes do not retry at
/// the same moment. It never gives up.
#[derive(Debug)]
pub struct Retry(ExponentialBackoff, Duration);

impl Retry {
    /// Starts at `first` and grows to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        let waits = ExponentialBackoffBuilder::new()
            .with_initial_interval(first)
            .with_max_interval(longest)
            .with_multiplier(1.5)
            .with_randomization_factor(0.3)
            .with_max_elapsed_time(None) // the default gives up after 15 minutes
            .build();
        Self(waits, longest)
    }

    /// The wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.1)
    }

    /// Starts again from the first wait, after a success.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_again() {
        let mut retry = Retry::new(Duration::from_millis(10), Duration::from_millis(100));
        let waits: Vec<_> = (0..50).map(|_| retry.next_wait()).collect();
        assert!(waits[0] <= Duration::from_millis(13));
        assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(130)));
        assert!(waits[49] >= Duration::from_millis(70));
        retry.reset();
        assert!(retry.next_wait() <= Duration::from_millis(13));
    }
}
