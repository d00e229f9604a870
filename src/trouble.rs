//! Failures that concern one campaign alone: counted, and logged once a minute for as long as they last, so that one
//! campaign cannot fill the log.

use std::collections::HashMap;
use std::error::Error;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use crate::ids::CampaignId;

/// The time between two log lines about one campaign, at least.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Campaigns that are remembered as logged, at most. With more, the others are only counted.
const LOGGED_MAX: usize = 1_000;

/// The failures of one kind of work.
#[derive(Debug)]
pub struct Troubles {
    /// What fails, for the log, such as "a campaign was not swept".
    what: &'static str,
    failures: Counter,
    logged: HashMap<CampaignId, Instant>,
}

impl Troubles {
    /// `what` says in the log what failed; `failures` counts.
    #[must_use]
    pub fn new(what: &'static str, failures: Counter) -> Self {
        Self { what, failures, logged: HashMap::new() }
    }

    /// Counts a failure, and logs it unless that was done within the last minute.
    pub fn report(&mut self, campaign: CampaignId, error: &(dyn Error + 'static)) {
        self.failures.inc();
        if self.logged.len() >= LOGGED_MAX {
            self.logged.retain(|_, at| at.elapsed() < LOG_INTERVAL);
        }
        let is_new = self.logged.get(&campaign).is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
        if is_new && self.logged.len() < LOGGED_MAX {
            self.logged.insert(campaign, Instant::now());
            tracing::warn!(%campaign, error, "{}", self.what);
        }
    }
}
