//! What the servers say about a shard, whichever process runs its relay.

use async_nats::Client;
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::epoch::Epochs;
use crate::holders::of_holders;
use crate::in_time::InTime as _;
use crate::outlet::{Outlet, Shard};
use crate::status::Halt;
use crate::stream::{self, StreamError};

/// The class of the advisory lock that the active relay of a shard holds.
pub(crate) const RELAY_LOCK: &str = "outbox_relay";

/// What Postgres and the stream say about a shard.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct Standing {
    pub shard: Shard,
    /// The highest position of the outbox.
    pub head: i64,
    /// The position at which the stream ends; `None` when that is not known.
    pub published: Option<i64>,
    /// The age in seconds of the oldest event that the stream does not have; 0 when there is none, `None` when that is
    /// not known.
    pub age: Option<f64>,
    /// Since when a relay is active; `None` when none is, or when the login may not see the sessions of others.
    pub led_since: Option<OffsetDateTime>,
    /// The session at Postgres of the active relay, such as `10.0.0.7, process 4711 of Postgres`; `None` when none is
    /// active.
    pub leader: Option<String>,
    /// Why the relay has stopped.
    pub halted: Option<String>,
}

impl Standing {
    /// Reads those of these shards from Postgres, in one statement: `pg_locks` is dear. With each shard goes the position
    /// at which its stream ends, as the caller knows.
    ///
    /// # Errors
    /// When Postgres fails or does not answer.
    pub async fn read(
        connection: &mut PgConnection,
        outlet: &Outlet,
        shards: &[(Shard, Option<i64>)],
    ) -> Result<Vec<Self>, sqlx::Error> {
        let (shards, published): (Vec<i16>, Vec<Option<i64>>) =
            shards.iter().map(|(shard, published)| (shard.0, *published)).unzip();
        // Above a position that the outbox no longer holds, the oldest event that it holds is the one that waits.
        sqlx::query_as(concat!(
            "SELECT s.shard, outbox_head(s.shard) AS head, s.published, led.since AS led_since, led.leader, halts.reason AS halted, \
                    CASE WHEN s.published IS NOT NULL THEN coalesce( \
                        (SELECT extract(epoch FROM clock_timestamp() - time)::float8 FROM outbox \
                         WHERE outbox.shard = s.shard AND position > s.published ORDER BY position LIMIT 1), 0) END AS age \
             FROM unnest($2::smallint[], $3::bigint[]) AS s (shard, published) \
             LEFT JOIN outbox_halts AS halts ON halts.shard = s.shard \
             LEFT JOIN (",
            of_holders!(
                "objid::bigint AS shard, min(backend_start) AS since, \
                 min(format('%s, process %s of Postgres', coalesce(host(client_addr), 'local or unknown'), pid)) AS leader",
                "GROUP BY objid"
            ),
            ") AS led ON led.shard = s.shard ORDER BY s.shard",
        ))
        .bind(outlet.own(RELAY_LOCK))
        .bind(shards)
        .bind(published)
        .fetch_all(connection)
        .in_time()
        .await
    }

    /// Events that the stream does not have; `None` when that is not known.
    #[must_use]
    pub fn backlog(&self) -> Option<i64> {
        self.published.map(|published| (self.head - published).max(0))
    }
}

/// The position at which the stream of a shard ends; `None` when the stream does not end with an event of the outbox.
///
/// # Errors
/// When the stream belongs to another deployment, or a server fails or does not answer.
pub async fn published(
    connection: &mut PgConnection,
    nats: &Client,
    outlet: &Outlet,
    shard: Shard,
) -> Result<Option<i64>, PublishedError> {
    let stream = stream::ours(nats, outlet, &outlet.stream_of(shard)).await?;
    let last = stream.map_or(0, |stream| stream.cached_info().state.last_sequence).cast_signed();
    let epochs = Epochs::read(connection, shard).await?;
    let current = epochs.current();
    if last + 1 == current.first_sequence {
        return Ok(Some(current.first_position - 1)); // nothing of the newest epoch is published yet
    }
    Ok(epochs.place_of(last).map(|(_, position)| position))
}

/// What Postgres says about a projection of a shard.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ProjectionStanding {
    pub projection: String,
    pub shard: Shard,
    /// The last position that it has applied.
    pub position: i64,
    /// Events of the outbox that it has not applied.
    pub lag: i64,
    /// Events that it could not apply, and that wait for an operator.
    pub parked: i64,
}

/// Reads these projections of all shards.
///
/// # Errors
/// When Postgres fails or does not answer.
pub async fn of_projections(
    connection: &mut PgConnection,
    projections: &[&str],
    shards: i16,
) -> Result<Vec<ProjectionStanding>, sqlx::Error> {
    sqlx::query_as(
        "SELECT projection, shard, position, greatest(outbox_head(shard) - position, 0) AS lag, \
         (SELECT count(*) FROM parked_events AS p WHERE (p.projection, p.shard) = (of.projection, of.shard)) AS parked \
         FROM (SELECT name AS projection, s::smallint AS shard, projection_position(name, s::smallint) AS position \
               FROM unnest($1::text[]) AS name, generate_series(0, $2 - 1) AS s) AS of",
    )
    .bind(projections)
    .bind(i32::from(shards))
    .fetch_all(connection)
    .in_time()
    .await
}

/// Why it is not known where a stream ends.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("read the epochs")]
    Database(#[from] sqlx::Error),
}

/// Notes why the relay of a shard has stopped.
pub(crate) async fn note(
    connection: &mut PgConnection,
    shard: Shard,
    halt: &Halt,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO outbox_halts (shard, reason) VALUES ($1, $2) \
         ON CONFLICT (shard) DO UPDATE SET reason = excluded.reason, \
         since = CASE WHEN outbox_halts.reason = excluded.reason THEN outbox_halts.since ELSE now() END",
    )
    .bind(shard)
    .bind(halt.to_string())
    .execute(connection)
    .in_time()
    .await
    .map(drop)
}

/// The relay of a shard continues.
pub(crate) async fn forget(connection: &mut PgConnection, shard: Shard) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM outbox_halts WHERE shard = $1")
        .bind(shard)
        .execute(connection)
        .in_time()
        .await
        .map(drop)
}
