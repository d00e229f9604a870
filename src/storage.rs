//! What a failure of Postgres means to a caller, and the one that is mended on the spot: a stale statement.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use outbox_relay::sqlstate::is_gone;
use sqlx::FromRow;
use sqlx::postgres::PgRow;

use crate::pool::Pool;

/// A request to Postgres failed. Clones share the cause: several callers may have waited for one answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// Postgres cannot serve at this moment. A retry is safe and may succeed.
    #[error("Postgres cannot serve")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// Too many requests wait for Postgres. Nothing was asked.
    #[error("too many lookups wait")]
    Overloaded,
    /// Postgres refused the statement, and would refuse it again, or a row cannot be read: a fault of this program or of the
    /// schema.
    #[error("a statement failed")]
    Refused(#[source] Arc<sqlx::Error>),
}

/// How every session plans: the same from the first row to the millionth. A plan that is best while a table is empty
/// (scan all of it, hash all of it) is kept with the session, and is ruinous when the table is full: with 20,000 coupons
/// of 11,000 campaigns, one read of 500 campaigns took 1.6 s, and less than 5 ms with these settings.
///
/// What is off is counted as expensive, not forbidden: the smallest table without an index makes a plan look so expensive
/// that it is compiled, at every call (7 ms), unless `jit` is off.
pub const PLANS: [(&str, &str); 5] = [
    ("jit", "off"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// Classes of errors of Postgres that pass by themselves (appendix A of its manual): connection exception, invalid
/// transaction state (a standby is read-only), transaction rollback, insufficient resources, object not in
/// prerequisite state (locks), operator intervention, system error (input and output).
const PASSING: [&str; 7] = ["08", "25", "40", "53", "55", "57", "58"];

/// Errors of a statement that a connection has prepared and that Postgres cannot run any more: the type of one of its
/// columns has changed (`feature_not_supported`), or the session has lost it (`invalid_sql_statement_name`).
const STALE: [&str; 2] = ["0A000", "26000"];

/// Whether a statement has failed because it was prepared before the schema changed. Nothing is written then.
#[must_use]
pub fn is_stale(error: &(dyn Error + 'static)) -> bool {
    let error = of_postgres(error).and_then(sqlx::Error::as_database_error);
    error.and_then(sqlx::error::DatabaseError::code).is_some_and(|code| STALE.contains(&&*code))
}

/// The failure of Postgres behind an error; nothing if Postgres has failed nothing.
#[must_use]
pub fn of_postgres<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a sqlx::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let shared = || error.downcast_ref::<Arc<sqlx::Error>>().map(|error| &**error);
        if let Some(error) = error.downcast_ref::<sqlx::Error>().or_else(shared) {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

/// Makes a request that only reads; once more on a new connection if that of the first turns out to be dead, as after a
/// quick restart of Postgres, when no ping has told yet. At most twice as long as one request.
pub(crate) async fn read<T, F>(pool: &Pool, request: impl Fn() -> F) -> Result<T, sqlx::Error>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    match request().await {
        Err(error) if is_gone(&error) => {
            pool.close_idle();
            request().await
        }
        answer => answer,
    }
}

/// What a row holds. A row over which the driver panics, as over a time that `OffsetDateTime` does not hold, cannot be read
/// either.
pub(crate) fn read_row<'r, T: FromRow<'r, PgRow>>(row: &'r PgRow) -> Result<T, sqlx::Error> {
    catch_unwind(AssertUnwindSafe(|| T::from_row(row))).unwrap_or_else(|_| Err(panicked()))
}

/// The driver has panicked over a row.
pub(crate) fn panicked() -> sqlx::Error {
    sqlx::Error::Decode("a row has made the driver panic".into())
}

/// Whether a row has a value that this program never writes.
#[must_use]
pub fn is_unreadable(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
}

/// Runs a statement on a connection of a pool, as in `prepared!(pool, |connection| query.fetch_one(connection))`. If
/// it is stale, the connection forgets all that it has prepared, and runs it once more: a migration under a running
/// process fails no request. The statement may refuse its work by an error of its own, if it leaves no transaction open. A
/// macro, because futures of a closure that borrows a connection cannot be sent.
macro_rules! prepared {
    ($pool:expr, |$connection:ident| $statement:expr) => {{
        use outbox_relay::in_time::InTime as _;
        let mut taken = $pool.acquire().await?;
        let first = {
            let $connection: &mut sqlx::PgConnection = &mut taken;
            $statement.in_time().await
        };
        let last = match first {
            Err(error) if $crate::storage::is_stale(&error) => {
                sqlx::Connection::clear_cached_statements(&mut *taken).in_time().await?;
                let $connection: &mut sqlx::PgConnection = &mut taken;
                $statement.in_time().await
            }
            result => result,
        };
        let failed = last.as_ref().is_err_and(|error| $crate::storage::of_postgres(error).is_some());
        if !failed {
            taken.rest();
        }
        last
    }};
}

pub(crate) use prepared;

impl From<sqlx::Error> for StorageError {
    /// An error that does not come from the server, such as a lost connection or a full pool, passes as well; but not a
    /// row that this program cannot read.
    fn from(error: sqlx::Error) -> Self {
        let passes = match error.as_database_error() {
            Some(error) => {
                error.code().is_some_and(|code| PASSING.iter().any(|class| code.starts_with(class)))
            }
            None => !is_unreadable(&error),
        };
        let error = Arc::new(error);
        if passes { Self::Unavailable(error) } else { Self::Refused(error) }
    }
}
