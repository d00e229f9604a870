//! Dead letters: events that a projection could not apply. They are parked, so that they do not hold
//! up the others, and wait to be redriven or dropped.
//!
//! The table `parked_events` says what is parked. The stream `<stream>-DEAD` shows each to whoever
//! listens: on `dead.<subjects>.<projection>.<shard>.<position>`, with the body of the event and the
//! headers [`PROJECTION_HEADER`], [`REASON_HEADER`] and [`ATTEMPTS_HEADER`].

use async_nats::Client;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::{self, context::PublishErrorKind};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, FromRow, PgConnection, Row as _};
use time::OffsetDateTime;
use ulid::Ulid;
use uuid::Uuid;

use crate::event::{EVENT_ID_HEADER, Event, POSITION_HEADER, SHARD_HEADER, StoredEvent};
use crate::failpoint;
use crate::follow_up::append_last;
use crate::outlet::{Outlet, Shard};
use crate::projection::{ApplyError, Projection};
use crate::stream::{self, StreamError};

/// Header with the name of the projection that could not apply the event.
pub const PROJECTION_HEADER: &str = "Dead-Projection";
/// Header with the reason.
pub const REASON_HEADER: &str = "Dead-Reason";
/// Header with the number of attempts.
pub const ATTEMPTS_HEADER: &str = "Dead-Attempts";
/// A redrive may hold a shard's lock while it is frozen; no longer than a frozen projector.
const IDLE_TIMEOUT: &str = "SET LOCAL idle_in_transaction_session_timeout = '10s'";
/// Characters of a reason.
const REASON_MAX: usize = 1_000;

/// An event that is parked for a projection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parked {
    pub projection: String,
    pub shard: Shard,
    pub position: i64,
    pub event_id: Ulid,
    /// In one line.
    pub reason: String,
    pub attempts: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub parked_at: OffsetDateTime,
}

impl FromRow<'_, PgRow> for Parked {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            projection: row.try_get("projection")?,
            shard: Shard(row.try_get("shard")?),
            position: row.try_get("position")?,
            event_id: row.try_get::<Uuid, _>("event_id")?.into(),
            reason: row.try_get("reason")?,
            attempts: row.try_get("attempts")?,
            parked_at: row.try_get("parked_at")?,
        })
    }
}

impl std::fmt::Display for Parked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { projection, shard, position, event_id, reason, attempts, .. } = self;
        write!(f, "{projection} {position} of shard {shard}, event {event_id}, {attempts} attempts: {reason}")
    }
}

/// Why an event was not redriven or dropped.
#[derive(Debug, thiserror::Error)]
pub enum DeadError {
    #[error("no event is parked for {projection} at position {position} of shard {shard}")]
    NotParked { projection: String, shard: Shard, position: i64 },
    #[error("the event is neither in the outbox nor in the stream of dead letters")]
    Gone,
    #[error("it could still not be applied, and stays parked")]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("read what is parked")]
    Database(#[from] sqlx::Error),
}

impl Parked {
    pub(crate) fn new(projection: &str, shard: Shard, event: &Event, reason: &str, attempts: i32) -> Self {
        // As it goes into a header.
        let reason = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_MAX).collect();
        let parked_at = OffsetDateTime::now_utc();
        let (projection, position, event_id) = (projection.to_owned(), event.position, event.id);
        Self { projection, shard, position, event_id, reason, attempts, parked_at }
    }

    pub(crate) async fn note(&self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO parked_events (projection, shard, position, event_id, reason, attempts, parked_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&self.projection)
        .bind(self.shard.0)
        .bind(self.position)
        .bind(Uuid::from(self.event_id))
        .bind(&self.reason)
        .bind(self.attempts)
        .bind(self.parked_at)
        .execute(transaction)
        .await
        .map(drop)
    }
}

/// Puts the event into the stream of dead letters, unless it is there.
pub(crate) async fn publish(
    nats: &Client,
    outlet: &Outlet,
    parked: &Parked,
    event: &Event,
) -> Result<(), StreamError> {
    stream::of_dead(nats, outlet).await?;
    let Parked { projection, shard, position, event_id, reason, attempts, .. } = parked;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, format!("{event_id}.{projection}"));
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
    headers.insert(EVENT_ID_HEADER, event_id.to_string());
    headers.insert(SHARD_HEADER, shard.to_string());
    headers.insert(POSITION_HEADER, position.to_string());
    headers.insert(PROJECTION_HEADER, projection.as_str());
    headers.insert(REASON_HEADER, reason.as_str());
    headers.insert(ATTEMPTS_HEADER, attempts.to_string());
    let subject = outlet.dead_subject(projection, *shard, *position);
    let error = |error: jetstream::context::PublishError| StreamError::new(&outlet.dead_stream(), &error);
    let sent = jetstream::new(nats.clone()).publish_with_headers(subject, headers, event.body.clone()).await;
    match sent.map_err(error)?.await {
        Ok(_) => Ok(()),
        // It is there.
        Err(refused) if refused.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
        Err(refused) => Err(error(refused)),
    }
}

/// What is parked, the oldest position first; at most `limit`.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list(connection: &mut PgConnection, limit: i64) -> Result<Vec<Parked>, sqlx::Error> {
    sqlx::query_as(
        "SELECT projection, shard, position, event_id, reason, attempts, parked_at \
         FROM parked_events ORDER BY projection, shard, position LIMIT $1",
    )
    .bind(limit)
    .fetch_all(connection)
    .await
}

/// The letters of one shard.
#[derive(Clone, Copy, Debug)]
pub struct Letters<'a> {
    pub nats: &'a Client,
    pub outlet: &'a Outlet,
    pub shard: Shard,
}

impl Letters<'_> {
    /// A parked event, with all of it.
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
        let parked: Option<Parked> = sqlx::query_as(
            "SELECT projection, shard, position, event_id, reason, attempts, parked_at \
             FROM parked_events WHERE projection = $1 AND shard = $2 AND position = $3",
        )
        .bind(projection)
        .bind(shard.0)
        .bind(position)
        .fetch_optional(&mut *connection)
        .await?;
        let parked = parked.ok_or_else(|| self.not_parked(projection, position))?;
        let stored = StoredEvent::between(connection, shard, position - 1, position).await?;
        if let Some(stored) = stored.first() {
            return Ok((parked, stored.to_event(outlet)));
        }
        // Past retention.
        let stream = stream::of_dead(nats, outlet).await?;
        let subject = outlet.dead_subject(projection, shard, position);
        let letter = stream.get_last_raw_message_by_subject(&subject).await.map_err(|_| DeadError::Gone)?;
        let event = Event::parse(position, &letter.payload).map_err(|_| DeadError::Gone)?;
        Ok((parked, event))
    }

    /// Applies a parked event after all, exactly once: effect and note go together. The letter goes after
    /// them; if that fails or is cut off, doing it again answers [`DeadError::NotParked`] and takes the
    /// letter away.
    ///
    /// # Errors
    /// See [`DeadError`]. What could not be applied stays parked.
    pub async fn redrive(
        &self,
        connection: &mut PgConnection,
        projection: &dyn Projection,
        position: i64,
    ) -> Result<(), DeadError> {
        let name = projection.name();
        let applied = async {
            let (_, event) = self.show(connection, name, position).await?;
            let mut transaction = connection.begin().await?;
            sqlx::query(IDLE_TIMEOUT).execute(&mut *transaction).await?;
            self.forget(&mut transaction, name, position).await?;
            let follow_ups = projection.apply(&mut transaction, &[event]).await?;
            append_last(&mut transaction, self.shard, &follow_ups).await?;
            Ok(transaction.commit().await?)
        };
        let applied = applied.await;
        self.remove_after(applied, connection, name, position).await
    }

    /// Gives up a parked event: its projection never applies it. The letter goes as in [`Letters::redrive`].
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

    /// The letter goes after its event; or, if there was no event, all letters that were left behind.
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
            Err(DeadError::NotParked { .. }) => self.sweep(connection, projection).await?,
            Err(_) => {}
        }
        settled
    }

    /// Removes the letters of events that are not parked (any more) and were passed by the projection. Such
    /// are left when something is cut off: a redrive, a rebuild, or a projector that then applied the event
    /// after all.
    pub(crate) async fn sweep(
        &self,
        connection: &mut PgConnection,
        projection: &str,
    ) -> Result<(), DeadError> {
        let prefix = self.outlet.dead_subjects(projection, self.shard);
        let letters = stream::counts(self.nats, &self.outlet.dead_stream(), &format!("{prefix}.*")).await?;
        let position = |subject: &str| subject.rsplit('.').next()?.parse().ok();
        let letters: Vec<i64> = letters.iter().filter_map(|(subject, _)| position(subject)).collect();
        // Read after the letters, which are written before the rows.
        let left: Vec<i64> = sqlx::query_scalar(
            "SELECT position FROM unnest($3::bigint[]) AS letter (position) \
             WHERE position <= projection_position($1, $2) AND NOT EXISTS (\
                 SELECT FROM parked_events AS parked \
                 WHERE parked.projection = $1 AND parked.shard = $2 AND parked.position = letter.position)",
        )
        .bind(projection)
        .bind(self.shard.0)
        .bind(letters)
        .fetch_all(connection)
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
        let deleted =
            sqlx::query("DELETE FROM parked_events WHERE projection = $1 AND shard = $2 AND position = $3")
                .bind(projection)
                .bind(self.shard.0)
                .bind(position)
                .execute(connection)
                .await?;
        if deleted.rows_affected() == 0 {
            return Err(self.not_parked(projection, position));
        }
        Ok(())
    }

    async fn remove(&self, projection: &str, position: i64) -> Result<(), StreamError> {
        let name = self.outlet.dead_stream();
        let Some(stream) = stream::existing(self.nats, &name).await? else { return Ok(()) };
        let purged = stream.purge().filter(self.outlet.dead_subject(projection, self.shard, position)).await;
        purged.map(drop).map_err(|error| StreamError::new(&name, &error))
    }

    fn not_parked(&self, projection: &str, position: i64) -> DeadError {
        DeadError::NotParked { projection: projection.to_owned(), shard: self.shard, position }
    }
}
