//! What keeps an audit from a verdict.

use crate::stream::StreamError;

/// Why it could not be told.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("read the outbox")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
}
