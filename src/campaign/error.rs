//! Why a campaign was not changed.

use outbox_relay::AppendError;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::State;
use super::edit::EditError;
use crate::idempotency::KeyError;
use crate::storage::StorageError;

/// Why a campaign was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("no campaign has this id")]
    Unknown,
    #[error("a campaign that is {} cannot be {asked}", state.as_str())]
    NotAllowed { state: State, asked: &'static str },
    #[error("the campaign cannot be opened: its closes_at, {}, has passed", written(*closes_at))]
    Over { closes_at: OffsetDateTime },
    #[error("the campaign has version {version} now")]
    Stale { version: i32 },
    #[error("the fields cannot be changed as asked")]
    Edit(#[from] EditError),
    /// Redis fails, or others load the gate all the time.
    #[error("load the gate again")]
    Gate,
    #[error("change a campaign")]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Key(KeyError),
    /// The outbox refused the event: a fault of this program.
    #[error("append the event of a change: {0}")]
    Refused(String),
}

impl From<sqlx::Error> for ChangeError {
    fn from(error: sqlx::Error) -> Self {
        Self::Storage(error.into())
    }
}

impl From<KeyError> for ChangeError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Storage(error) => Self::Storage(error),
            error @ (KeyError::InUse | KeyError::Reused) => Self::Key(error),
        }
    }
}

impl From<AppendError> for ChangeError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Database(error) => error.into(),
            AppendError::Refused(constraint) => Self::Refused(constraint),
        }
    }
}

/// A time as JSON has it.
fn written(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}
