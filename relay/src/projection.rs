//! What a projection is: tables that are a function of the events.

use std::fmt;

use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use ulid::Ulid;

use crate::append::AppendError;
use crate::event::{Event, NewEvent};
use crate::stream::StreamError;

/// Events that may follow from what is applied in one transaction, ten for each event of a full batch. They are
/// held in memory and appended by one statement, while appends to the shard wait.
pub const FOLLOW_UPS_MAX: usize = 10_000;

/// A batch that is being applied. Returns the events that follow from it, in the order of their append.
pub type Applying<'a> = BoxFuture<'a, Result<Vec<NewEvent>, ApplyError>>;

/// Tables that are a function of the events.
pub trait Projection: fmt::Debug + Send + Sync {
    /// The name of the projection and of its positions: letters, digits and underscores.
    fn name(&self) -> &'static str;

    /// The tables that this projection writes. Nothing else writes to them.
    fn tables(&self) -> &'static [&'static str];

    /// Applies a batch, in order of position, within the transaction, and returns the events that follow
    /// from it. Each event is given once; one that was [parked](ApplyError::is_poison) may be given later,
    /// by itself.
    ///
    /// Name tables without a schema: a rebuild applies the events to tables of another schema.
    ///
    /// # The events that follow
    ///
    /// Return them; do not call [`append()`](crate::append()) here. The feed appends them to the shard that
    /// it feeds, as the last statement of the transaction that holds the effects and the position: an event
    /// that follows is in the outbox if and only if its cause was applied. A rebuild drops them, because
    /// they were appended when the events were applied for the first time. A redrive appends them.
    ///
    /// * They come back to every projection of the shard, this one included. Return none for an event of a
    ///   type that you return, or the shard never comes to rest.
    /// * Give them the id [`Event::follow_up_id`]: after a restore of the database, readers then know an
    ///   event that follows again.
    /// * An event that the outbox refuses, or more than [`FOLLOW_UPS_MAX`]
    ///   of them, is the fault of the event that is applied: it is parked.
    /// * The append takes the shard's lock and holds it to the commit; every other append to the shard
    ///   waits. If the projector's process is frozen in between, Postgres ends its session after 10 s.
    fn apply<'a>(&'a self, transaction: &'a mut PgConnection, events: &'a [Event]) -> Applying<'a>;
}

/// Why a batch was not applied: an event is poison, or the database failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("the event at position {position} cannot be read")]
    Unreadable {
        position: i64,
        #[source]
        source: serde_json::Error,
    },
    #[error("the outbox refuses an event that follows: {0}")]
    Refused(String),
    #[error("{count} events follow, {max} is the most")]
    TooMany { count: usize, max: usize },
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl From<AppendError> for ApplyError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Refused(constraint) => Self::Refused(constraint),
            AppendError::Database(error) => Self::Database(error),
        }
    }
}

impl ApplyError {
    /// Whether the event is at fault, so that a retry is of no use: it cannot be read, it breaks the rules
    /// of the tables (SQLSTATE classes 22, data exception, and 23, constraint violation), or what follows
    /// from it cannot be appended.
    #[must_use]
    pub fn is_poison(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::Refused(_) | Self::TooMany { .. } => true,
            Self::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
            }
            Self::Database(_) => false,
        }
    }
}

/// Why a projector starts over.
#[derive(Debug, thiserror::Error)]
pub enum ProjectorError {
    #[error("apply events")]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("behind position {after}, up to {until}, something is neither in the stream nor in the outbox")]
    Gap { after: i64, until: i64 },
    #[error(
        "the stream gives event {given} as position {position}, where the outbox has {ours:?}: it is not applied"
    )]
    Foreign { position: i64, given: Ulid, ours: Option<Ulid> },
    #[error(
        "the consumer gave nothing behind position {after}, and the stream goes on to {published}: it is made anew"
    )]
    Mute { after: i64, published: i64 },
    #[error("an epoch has begun")]
    EpochBegan,
    #[error("stream {0} is not there (yet): its relay makes it")]
    NoStream(String),
}

impl From<sqlx::Error> for ProjectorError {
    fn from(error: sqlx::Error) -> Self {
        Self::Apply(error.into())
    }
}
