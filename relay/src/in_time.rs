//! A limit on every wait for Postgres. A peer that dies without a word (power lost, a firewall that drops flows)
//! never closes the connection, and TCP alone reports it after many minutes, or never.

use std::io;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::Map;
use tokio::time::error::Elapsed;
use tokio::time::{Timeout, timeout};

use crate::zoo;

/// The limit of one statement. Long enough for Postgres under load, and so short that a leader that has lost a
/// silent connection leads again within 15 s: Postgres ends the old session after 10 s, see `leadership`.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The limit of a statement of an audit, which may read a whole table: longer than the server's own, of 10 minutes. The
/// auditor limits each of its rounds besides.
pub const SCAN_TIMEOUT: Duration = Duration::from_secs(660);
/// The limit of a statement that may read or change a whole table, in commands that an operator watches.
pub const LONG_TIMEOUT: Duration = Duration::from_secs(3600);

/// A wait with a limit. Its type has a name, so that tasks that hold one can move between threads.
pub type Limited<F, T, E> = Map<Timeout<F>, fn(Result<Result<T, E>, Elapsed>) -> Result<T, E>>;

/// Limits the wait for an answer of Postgres.
pub trait InTime<T, E: From<sqlx::Error>>: Future<Output = Result<T, E>> + Sized {
    /// Waits up to [`ANSWER_TIMEOUT`].
    ///
    /// Its errors are those of the statement, and [`sqlx::Error::Io`] of kind `TimedOut`. Drop the connection then:
    /// an answer may still arrive on it.
    fn in_time(self) -> Limited<Self, T, E> {
        self.within(ANSWER_TIMEOUT)
    }

    /// Waits up to `limit`. See [`InTime::in_time`].
    fn within(self, limit: Duration) -> Limited<Self, T, E> {
        let limit = if zoo::has("no-limit-on-a-statement") { LONG_TIMEOUT } else { limit };
        timeout(limit, self).map(|answered| answered.unwrap_or_else(|Elapsed { .. }| Err(silent().into())))
    }
}

impl<F, T, E> InTime<T, E> for F
where
    F: Future<Output = Result<T, E>>,
    E: From<sqlx::Error>,
{
}

fn silent() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "Postgres does not answer"))
}
