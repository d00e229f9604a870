//! What a failure of Postgres means to a caller.

use std::sync::Arc;

/// A request to Postgres failed. Clones share the cause: several callers may have waited for one answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// Postgres cannot serve at this moment. A retry is safe and may succeed.
    #[error("Postgres cannot serve")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// Postgres refused the statement, and would refuse it again: a fault of this program or of the schema.
    #[error("Postgres refused a statement")]
    Refused(#[source] Arc<sqlx::Error>),
}

/// Classes of errors of Postgres that pass by themselves (appendix A of its manual): connection exception, invalid
/// transaction state (a standby is read-only), transaction rollback, insufficient resources, object not in
/// prerequisite state (locks), operator intervention, system error (input and output).
const PASSING: [&str; 7] = ["08", "25", "40", "53", "55", "57", "58"];

impl From<sqlx::Error> for StorageError {
    /// An error that does not come from the server, such as a lost connection or a full pool, passes as well.
    fn from(error: sqlx::Error) -> Self {
        let passes = error.as_database_error().is_none_or(|error| {
            error.code().is_some_and(|code| PASSING.iter().any(|class| code.starts_with(class)))
        });
        let error = Arc::new(error);
        if passes { Self::Unavailable(error) } else { Self::Refused(error) }
    }
}
