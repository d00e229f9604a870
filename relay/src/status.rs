//! What a relay reports, and why it retries or stops.

use crate::ownership::Foreign;
use crate::stream::StreamError;

/// What a relay reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayStatus {
    /// Whether this relay is the active one of its shard, as far as it knows.
    pub leads: bool,
    /// Whether this relay, the active one, knows where the stream ends.
    pub found: bool,
    /// The last position that the stream has acknowledged.
    pub published: i64,
    /// How many events this relay has published again because the stream had lost them.
    pub healed: i64,
    /// Why its last attempt failed, if NATS refused it or did not answer. It retries.
    pub held_up: Option<String>,
    /// Why the relay has stopped. An operator has to decide; the relay never guesses.
    pub halted: Option<Halt>,
}

/// Why a relay retries or stops.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("read the outbox")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Stream(StreamError),
    #[error("position {position} was not stored: {reason}")]
    Refused { position: i64, reason: String },
    #[error(transparent)]
    Halted(#[from] Halt),
}

impl From<StreamError> for RelayError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Foreign(foreign) => Self::Halted(Halt::Foreign(foreign)),
            failed => Self::Stream(failed),
        }
    }
}

/// Why a relay stops. An operator has to decide; the relay never guesses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    #[error(
        "stream {stream} ends at sequence {last}, where the outbox ends at position {head}: the database was \
         restored to an earlier time, or another client wrote to the stream. Begin a new epoch after you have stopped every \
         other writer, and made sure that this is the database to continue with"
    )]
    StreamIsAhead { stream: String, last: i64, head: i64 },
    #[error(
        "stream {stream} ends at sequence {last}, and the outbox starts at position {oldest}, whose sequence is \
         {sequence}: what is between is past retention. Recreate the stream with `first_seq` {sequence} \
         (nats-server 2.10 or newer), or begin a new epoch"
    )]
    PastRetention { stream: String, last: i64, oldest: i64, sequence: i64 },
    #[error(
        "stream {stream} ends at sequence {last}, before the epoch that began at {sequence}: events that \
         the outbox never knew are lost. Begin a new epoch"
    )]
    BeforeEpoch { stream: String, last: i64, sequence: i64 },
    #[error(
        "stream {stream} has {theirs} at sequence {sequence}, where the outbox has {ours} at position {position}: \
         the database was restored to an earlier time, or another client wrote to the stream. Begin a new epoch \
         after you have stopped every other writer, and made sure that this is the database to continue with"
    )]
    Differs { stream: String, sequence: i64, theirs: String, position: i64, ours: String },
    #[error(
        "position {0} is missing from the outbox, from which this crate never deletes a row: restore it from a backup"
    )]
    Hole(i64),
    #[error(
        "the event at position {position} is too large for the server, which takes {max} bytes: raise its `max_payload`"
    )]
    TooLarge { position: i64, max: usize },
    #[error(transparent)]
    Foreign(Foreign),
}

impl Halt {
    /// Whether a new epoch lets the relay continue.
    #[must_use]
    pub fn needs_epoch(&self) -> bool {
        match self {
            Self::StreamIsAhead { .. }
            | Self::PastRetention { .. }
            | Self::BeforeEpoch { .. }
            | Self::Differs { .. } => true,
            Self::Hole(_) | Self::TooLarge { .. } | Self::Foreign(_) => false,
        }
    }
}
