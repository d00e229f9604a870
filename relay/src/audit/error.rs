//! Why an audit gave no result.

use crate::stream::StreamError;

/// Why an audit gave no result.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("read the outbox")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
}
