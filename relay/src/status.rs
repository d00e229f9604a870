//! What a relay says of itself, and why it starts over or stops.

use crate::stream::StreamError;

/// What a relay says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayStatus {
    /// It is the active one of its shard, as far as it knows: not while another is.
    pub leads: bool,
    /// The last position that the stream has acknowledged.
    pub published: i64,
    /// Events that it put into the stream once more because the stream had lost them.
    pub healed: i64,
    /// What it tried last did not come off: NATS refused it, or did not answer. It tries again.
    pub held_up: bool,
    /// Why it stopped. Somebody has to decide; nothing is guessed.
    pub halted: Option<Halt>,
}

/// Why a relay starts over, or stops.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("read the outbox")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("position {position} was not stored: {reason}")]
    Refused { position: i64, reason: String },
    #[error(transparent)]
    Halted(#[from] Halt),
}

/// Why a relay stops. Somebody has to decide; nothing is guessed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    #[error(
        "stream {stream} ends at sequence {last}, where the outbox ends at position {head}: the database was \
         restored to an earlier time. Begin a new epoch"
    )]
    StreamIsAhead { stream: String, last: i64, head: i64 },
    #[error(
        "stream {stream} ends at sequence {last}, and the outbox starts at position {oldest}, which belongs at \
         {sequence}: what is between is past retention. Make the stream anew with `first_seq` {sequence} \
         (nats-server 2.10 or newer), or begin a new epoch"
    )]
    PastRetention { stream: String, last: i64, oldest: i64, sequence: i64 },
    #[error(
        "stream {stream} ends at sequence {last}, before the epoch that began at {sequence}: what the outbox \
         has never known is lost. Begin a new epoch"
    )]
    BeforeEpoch { stream: String, last: i64, sequence: i64 },
    #[error(
        "stream {stream} has {theirs} at sequence {sequence}, where the outbox has {ours} at position {position}: \
         the database was restored to an earlier time, or somebody else wrote to the stream. Begin a new epoch"
    )]
    Differs { stream: String, sequence: i64, theirs: String, position: i64, ours: String },
    #[error("position {0} is missing from the outbox, which nothing of ours does: restore it")]
    Hole(i64),
    #[error(
        "the event at position {position} is too large for the server, which takes {max} bytes: raise its max_payload"
    )]
    TooLarge { position: i64, max: usize },
}

impl Halt {
    /// Whether a new epoch is a way out.
    #[must_use]
    pub fn needs_epoch(&self) -> bool {
        match self {
            Self::StreamIsAhead { .. }
            | Self::PastRetention { .. }
            | Self::BeforeEpoch { .. }
            | Self::Differs { .. } => true,
            Self::Hole(_) | Self::TooLarge { .. } => false,
        }
    }
}
