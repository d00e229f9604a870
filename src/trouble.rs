//! Failures of which many are alike: the log gets one line of them in an interval, so that they cannot fill it.

use std::collections::HashMap;
use std::error::Error;
use std::hash::Hash;
use std::mem::replace;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use crate::ids::CampaignId;

/// The time between two log lines about one campaign, at least.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Keys that are remembered as logged, at most. With more, the others are not logged.
const LOGGED_MAX: usize = 1_000;

/// Which of many failures are logged: one of each key in an interval, the first at once.
#[derive(Debug)]
pub struct Spaced<K> {
    /// When a failure of the key was logged last, and how many were left out since.
    logged: HashMap<K, (Instant, u64)>,
}

impl<K> Default for Spaced<K> {
    fn default() -> Self {
        Self { logged: HashMap::new() }
    }
}

impl<K: Eq + Hash> Spaced<K> {
    /// Whether this failure is logged, and how many of its key were left out since the last that was. The interval of a key
    /// is always the same.
    pub fn is_due(&mut self, key: K, interval: Duration) -> Option<u64> {
        let now = Instant::now();
        let rests = |at: Instant| now.duration_since(at) < interval;
        if self.logged.len() >= LOGGED_MAX {
            self.logged.retain(|_, (at, _)| rests(*at));
        }
        let is_full = self.logged.len() >= LOGGED_MAX;
        match self.logged.get_mut(&key) {
            Some((at, left_out)) if rests(*at) => {
                *left_out += 1;
                None
            }
            Some(logged) => Some(replace(logged, (now, 0)).1),
            None if is_full => None,
            None => {
                self.logged.insert(key, (now, 0));
                Some(0)
            }
        }
    }
}

/// Failures of one kind of work, each of which concerns one campaign alone: counted, and logged once a minute for as long
/// as they last.
#[derive(Debug)]
pub struct Troubles {
    /// What fails, for the log, such as "a campaign was not swept".
    what: &'static str,
    failures: Counter,
    spaced: Spaced<CampaignId>,
}

impl Troubles {
    /// `what` says in the log what failed; `failures` counts.
    #[must_use]
    pub fn new(what: &'static str, failures: Counter) -> Self {
        Self { what, failures, spaced: Spaced::default() }
    }

    /// Counts a failure, and logs it unless that was done within the last minute.
    pub fn report(&mut self, campaign: CampaignId, error: &(dyn Error + 'static)) {
        self.failures.inc();
        if self.spaced.is_due(campaign, LOG_INTERVAL).is_some() {
            tracing::warn!(%campaign, error, "{}", self.what);
        }
    }
}
