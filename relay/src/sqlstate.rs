//! What the SQLSTATE codes of Postgres mean here.

/// `lock_not_available`.
const LOCK_NOT_AVAILABLE: &str = "55P03";
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

fn code(error: &sqlx::Error) -> Option<std::borrow::Cow<'_, str>> {
    error.as_database_error()?.code()
}
