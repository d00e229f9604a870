//! What a projection is: tables that are a function of the events.

use std::fmt;

use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use ulid::Ulid;

use crate::event::Event;
use crate::stream::StreamError;

/// A batch on its way into a projection.
pub type Applying<'a> = BoxFuture<'a, Result<(), ApplyError>>;

/// Tables that are a function of the events.
pub trait Projection: fmt::Debug + Send + Sync {
    /// Of the projection and its positions: letters, digits and underscores.
    fn name(&self) -> &'static str;

    /// The tables that it fills and nobody else.
    fn tables(&self) -> &'static [&'static str];

    /// Applies a batch, in order of position, within the transaction. Each event is given once; one that
    /// was [parked](ApplyError::is_poison) may be given later, by itself.
    ///
    /// Tables are to be named without a schema: a rebuild applies the events to tables in another one.
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
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl ApplyError {
    /// Whether an event is to blame, so that to try again is of no use: it cannot be read, or it breaks
    /// the rules of the tables (classes 22, data exception, and 23, constraint violation).
    #[must_use]
    pub fn is_poison(&self) -> bool {
        match self {
            Self::Unreadable { .. } => true,
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
