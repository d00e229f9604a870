//! What time it is.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment, on the clock of the calendar and on that of the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Seconds since 1970, as `exp` and `nbf` count them.
    pub(super) unix: f64,
    /// It never goes back, so ages are measured by it.
    pub(super) instant: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        // A clock before 1970 is taken for 1970.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { unix: unix.as_secs_f64(), instant: Instant::now() }
    }
}
