//! What errors of Postgres mean here, by their SQLSTATE codes.

use std::io;

/// `lock_not_available`.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// `admin_shutdown`, `crash_shutdown`, `cannot_connect_now`: Postgres is ending or starting.
const AWAY: [&str; 3] = ["57P01", "57P02", "57P03"];
/// The data is at fault: classes 22, data exception, and 23, constraint violation.
const FAULTS_OF_DATA: [&str; 2] = ["22", "23"];

/// Whether the data of the statement is at fault, so that a retry cannot help.
pub(crate) fn is_fault_of_data(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| FAULTS_OF_DATA.iter().any(|class| code.starts_with(class)))
}

/// Whether the statement waited for a lock for longer than `lock_timeout`.
pub(crate) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == LOCK_NOT_AVAILABLE)
}

/// Whether Postgres was away: the connection broke, none could be made, or Postgres was silent, starting or ending.
#[must_use]
pub fn is_away(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_)) || code(error).is_some_and(|code| AWAY.contains(&&*code))
}

/// The same, but not where Postgres was silent: it may have waited for a lock.
#[must_use]
pub fn is_gone(error: &sqlx::Error) -> bool {
    is_away(error) && !matches!(error, sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut)
}

fn code(error: &sqlx::Error) -> Option<std::borrow::Cow<'_, str>> {
    error.as_database_error()?.code()
}
