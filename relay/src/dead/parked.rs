//! Parked events: the rows of table `parked_events`.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use ulid::Ulid;
use uuid::Uuid;

use crate::event::Event;
use crate::in_time::InTime as _;
use crate::outlet::Shard;

/// Characters of a reason, at most.
const REASON_MAX: usize = 1_000;

/// An event that is parked for a projection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Parked {
    pub projection: String,
    pub shard: Shard,
    pub position: i64,
    #[sqlx(try_from = "Uuid")]
    pub event_id: Ulid,
    /// The error and its causes, in one line.
    pub reason: String,
    pub attempts: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub parked_at: OffsetDateTime,
}

impl std::fmt::Display for Parked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { projection, shard, position, event_id, reason, attempts, .. } = self;
        write!(f, "{projection} {position} of shard {shard}, event {event_id}, {attempts} attempts: {reason}")
    }
}

impl Parked {
    pub(crate) fn new(projection: &str, shard: Shard, event: &Event, reason: &str, attempts: i32) -> Self {
        // A header value has no control characters.
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
        .bind(self.shard)
        .bind(self.position)
        .bind(Uuid::from(self.event_id))
        .bind(&self.reason)
        .bind(self.attempts)
        .bind(self.parked_at)
        .execute(transaction)
        .in_time()
        .await
        .map(drop)
    }

    /// The parked event of a projection at a position.
    pub(crate) async fn find(
        connection: &mut PgConnection,
        projection: &str,
        shard: Shard,
        position: i64,
    ) -> Result<Option<Self>, sqlx::Error> {
        sqlx::query_as(
            "SELECT projection, shard, position, event_id, reason, attempts, parked_at \
             FROM parked_events WHERE projection = $1 AND shard = $2 AND position = $3",
        )
        .bind(projection)
        .bind(shard)
        .bind(position)
        .fetch_optional(connection)
        .in_time()
        .await
    }

    /// Deletes the row of a parked event. Returns whether there was one.
    pub(crate) async fn forget(
        connection: &mut PgConnection,
        projection: &str,
        shard: Shard,
        position: i64,
    ) -> Result<bool, sqlx::Error> {
        sqlx::query("DELETE FROM parked_events WHERE projection = $1 AND shard = $2 AND position = $3")
            .bind(projection)
            .bind(shard)
            .bind(position)
            .execute(connection)
            .in_time()
            .await
            .map(|deleted| deleted.rows_affected() > 0)
    }
}

/// The parked events in order of projection, shard and position, at most `limit`.
///
/// # Errors
/// When the query fails.
pub async fn list(connection: &mut PgConnection, limit: i64) -> Result<Vec<Parked>, sqlx::Error> {
    sqlx::query_as(
        "SELECT projection, shard, position, event_id, reason, attempts, parked_at \
         FROM parked_events ORDER BY projection, shard, position LIMIT $1",
    )
    .bind(limit)
    .fetch_all(connection)
    .in_time()
    .await
}
