//! Projections: tables that are a function of the events.

use std::fmt;

use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use ulid::Ulid;

use crate::append::AppendError;
use crate::event::{Event, NewEvent};
use crate::outage::Failed;
use crate::sqlstate::is_fault_of_data;
use crate::stream::StreamError;

/// The most events that may follow from what is applied in one transaction: ten for each event of a full batch.
/// They are held in memory and appended by one statement, while other appends to the shard wait.
pub const FOLLOW_UPS_MAX: usize = 10_000;

/// A batch that is being applied. Resolves to the events that follow from it, in the order in which to append
/// them.
pub type Applying<'a> = BoxFuture<'a, Result<Vec<NewEvent>, ApplyError>>;

/// Tables that are a function of the events.
pub trait Projection: fmt::Debug + Send + Sync {
    /// The name of the projection and of its positions: letters, digits and underscores.
    fn name(&self) -> &'static str;

    /// The tables that this projection writes. Nothing else writes to them.
    fn tables(&self) -> &'static [&'static str];

    /// Applies a batch, in order of position, within the transaction, and returns the events that follow from
    /// it. Each event is given once; one that was [parked](ApplyError::is_poison) may be given later, on its
    /// own.
    ///
    /// Name tables without a schema: a rebuild applies the events to tables of another schema.
    ///
    /// # The events that follow
    ///
    /// Return them; do not call [`append()`](crate::append()) here. The feed appends them to the shard of the
    /// batch, as the last statement of the transaction that holds effects and position: an event that follows
    /// is in the outbox if and only if its cause was applied. A rebuild drops them, because they were appended
    /// when the events were first applied. A redrive appends them.
    ///
    /// * They reach every projection of the shard, this one included. Return none for an event of a type that
    ///   you return: the shard would never come to rest.
    /// * Give them the id [`Event::follow_up_id`], so that readers recognize them after a restore of the
    ///   database.
    /// * If the outbox refuses one, or if more than [`FOLLOW_UPS_MAX`] follow, the event that is being applied
    ///   is at fault and is parked.
    /// * The append takes the shard's lock until the commit, and every other append to the shard waits. If the
    ///   projector's process is frozen in between, Postgres ends its session after 10 s.
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
    #[error("{count} events follow; at most {max} may")]
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
    /// Whether the event is at fault, so that a retry cannot help: it cannot be read, it breaks the rules of
    /// the tables (SQLSTATE classes 22, data exception, and 23, constraint violation), or the events that
    /// follow from it cannot be appended.
    #[must_use]
    pub fn is_poison(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::Refused(_) | Self::TooMany { .. } => true,
            Self::Database(error) => is_fault_of_data(error),
        }
    }
}

/// Why a projector retries from the beginning.
#[derive(Debug, thiserror::Error)]
pub enum ProjectorError {
    #[error("apply events")]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("after position {after}, up to {until}, an event is neither in the stream nor in the outbox")]
    Gap { after: i64, until: i64 },
    #[error(
        "the stream delivers event {given} as position {position}, where the outbox has {}: it is not applied",
        ours.map_or_else(|| "none".to_owned(), |id| id.to_string())
    )]
    Foreign { position: i64, given: Ulid, ours: Option<Ulid> },
    #[error(
        "the consumer delivered nothing after position {after} though the stream reaches {published}: recreating it"
    )]
    Mute { after: i64, published: i64 },
    #[error("a new epoch has begun")]
    EpochBegan,
    #[error("there is no stream {0} yet: its relay creates it")]
    NoStream(String),
}

impl ProjectorError {
    pub(crate) fn failed(&self) -> Failed<'_> {
        match self {
            Self::Apply(ApplyError::Database(error)) => Failed::Postgres(error),
            Self::Stream(StreamError::Failed { .. }) => Failed::Nats,
            _ => Failed::Other,
        }
    }
}

impl From<sqlx::Error> for ProjectorError {
    fn from(error: sqlx::Error) -> Self {
        Self::Apply(error.into())
    }
}
