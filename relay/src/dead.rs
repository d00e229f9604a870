//! Dead letters: events that a projection could not apply. They are parked, so that they do not hold up other
//! events, until they are redriven or dropped.
//!
//! Table `parked_events` says which events are parked. Stream `<stream>-DEAD` shows each of them to
//! subscribers, on `dead.<subjects>.<projection>.<shard>.<position>`, with the body of the event and the
//! headers [`PROJECTION_HEADER`], [`REASON_HEADER`] and [`ATTEMPTS_HEADER`].

mod letter;
mod parked;

use async_nats::Client;
use sqlx::{Connection as _, PgConnection};

pub(crate) use self::letter::publish;
pub use self::letter::{ATTEMPTS_HEADER, PROJECTION_HEADER, REASON_HEADER};
pub use self::parked::{Parked, list};
use crate::event::{Event, StoredEvent};
use crate::failpoint;
use crate::follow_up::append_last;
use crate::in_time::InTime as _;
use crate::outlet::{Outlet, Shard};
use crate::projection::{ApplyError, Projection};
use crate::stream::StreamError;

/// A redrive holds the shard's lock while it appends. If its process is frozen then, Postgres ends the session
/// after this time, as it does with a projector.
const IDLE_TIMEOUT: &str = "SET LOCAL idle_in_transaction_session_timeout = '10s'";

/// Why an event was not redriven or dropped.
#[derive(Debug, thiserror::Error)]
pub enum DeadError {
    #[error("no event is parked for {projection} at position {position} of shard {shard}")]
    NotParked { projection: String, shard: Shard, position: i64 },
    #[error("the event is neither in the outbox nor in the stream of dead letters")]
    Gone,
    #[error("it still cannot be applied, and stays parked")]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("read the parked events")]
    Database(#[from] sqlx::Error),
}

/// The letters of one shard.
#[derive(Clone, Copy, Debug)]
pub struct Letters<'a> {
    pub nats: &'a Client,
    pub outlet: &'a Outlet,
    pub shard: Shard,
}

impl Letters<'_> {
    /// Returns a parked event in full.
    ///
    /// # Errors
    /// See [`DeadError`].
    pub async fn show(
        &self,
        connection: &mut PgConnection,
        projection: &str,
        position: i64,
    ) -> Result<(Parked, Event), DeadError> {
        let Self { nats, outlet, shard } = *self;
        let parked = Parked::find(connection, projection, shard, position).await?;
        let parked = parked.ok_or_else(|| self.not_parked(projection, position))?;
        let stored = StoredEvent::between(connection, shard, position - 1, position).await?;
        if let Some(stored) = stored.first() {
            return Ok((parked, stored.to_event(outlet)));
        }
        // Past retention.
        let event = letter::read(nats, outlet, (projection, shard, position)).await?;
        Ok((parked, event.ok_or(DeadError::Gone)?))
    }

    /// Applies a parked event exactly once: its effect, the events that follow and the removal of its row are
    /// one transaction. The letter is removed after the commit. If that fails or is interrupted, repeat the
    /// call: it returns [`DeadError::NotParked`] and removes the letter.
    ///
    /// # Errors
    /// See [`DeadError`]. An event that could not be applied stays parked.
    pub async fn redrive(
        &self,
        connection: &mut PgConnection,
        projection: &dyn Projection,
        position: i64,
    ) -> Result<(), DeadError> {
        let name = projection.name();
        let applied = async {
            let (_, event) = self.show(connection, name, position).await?;
            let mut transaction = connection.begin().in_time().await?;
            sqlx::query(IDLE_TIMEOUT).execute(&mut *transaction).in_time().await?;
            self.forget(&mut transaction, name, position).await?;
            let follow_ups = projection.apply(&mut transaction, &[event]).in_time().await?;
            append_last(&mut transaction, self.shard, &follow_ups).await?;
            Ok(transaction.commit().in_time().await?)
        };
        let applied = applied.await;
        self.remove_after(applied, connection, name, position).await
    }

    /// Drops a parked event: its projection never applies it. The letter is removed as in [`Letters::redrive`].
    ///
    /// # Errors
    /// See [`DeadError`].
    pub async fn drop_parked(
        &self,
        connection: &mut PgConnection,
        projection: &str,
        position: i64,
    ) -> Result<(), DeadError> {
        let forgotten = self.forget(connection, projection, position).await;
        self.remove_after(forgotten, connection, projection, position).await
    }

    /// Removes the letter of an event that was redriven or dropped; if none was parked, removes all letters
    /// left behind.
    async fn remove_after(
        &self,
        settled: Result<(), DeadError>,
        connection: &mut PgConnection,
        projection: &str,
        position: i64,
    ) -> Result<(), DeadError> {
        failpoint::reached("dead.settled").await;
        match settled {
            Ok(()) => self.remove(projection, position).await?,
            Err(DeadError::NotParked { .. }) => self.remove_left_behind(connection, projection).await?,
            Err(_) => {}
        }
        settled
    }

    /// Removes the letters of events that the projection has passed and that are no longer parked. They are
    /// left behind when a redrive or a rebuild is interrupted, or when a projector applied the event after all.
    pub(crate) async fn remove_left_behind(
        &self,
        connection: &mut PgConnection,
        projection: &str,
    ) -> Result<(), DeadError> {
        let letters = letter::positions(self.nats, self.outlet, projection, self.shard).await?;
        // Read after the letters, because a projector writes the letter before the row.
        let left: Vec<i64> = sqlx::query_scalar(
            "SELECT position FROM unnest($3::bigint[]) AS letter (position) \
             WHERE position <= projection_position($1, $2) AND NOT EXISTS (\
                 SELECT FROM parked_events AS parked \
                 WHERE parked.projection = $1 AND parked.shard = $2 AND parked.position = letter.position)",
        )
        .bind(projection)
        .bind(self.shard)
        .bind(letters)
        .fetch_all(connection)
        .in_time()
        .await?;
        for position in left {
            self.remove(projection, position).await?;
        }
        Ok(())
    }

    async fn forget(
        &self,
        connection: &mut PgConnection,
        projection: &str,
        position: i64,
    ) -> Result<(), DeadError> {
        let forgotten = Parked::forget(connection, projection, self.shard, position).await?;
        if forgotten { Ok(()) } else { Err(self.not_parked(projection, position)) }
    }

    async fn remove(&self, projection: &str, position: i64) -> Result<(), StreamError> {
        letter::remove(self.nats, self.outlet, (projection, self.shard, position)).await
    }

    fn not_parked(&self, projection: &str, position: i64) -> DeadError {
        DeadError::NotParked { projection: projection.to_owned(), shard: self.shard, position }
    }
}
