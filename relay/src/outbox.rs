//! The range of positions that the outbox of a shard holds.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::in_time::InTime as _;
use crate::outlet::Shard;

/// The highest position of a shard, 0 when it has none.
pub(crate) async fn head(connection: &mut PgConnection, shard: Shard) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT outbox_head($1)").bind(shard).fetch_one(connection).in_time().await
}

/// Position and time of the oldest event that a shard still holds.
pub(crate) async fn oldest(
    connection: &mut PgConnection,
    shard: Shard,
) -> Result<Option<(i64, OffsetDateTime)>, sqlx::Error> {
    sqlx::query_as("SELECT position, time FROM outbox WHERE shard = $1 ORDER BY position LIMIT 1")
        .bind(shard)
        .fetch_optional(connection)
        .in_time()
        .await
}

/// The oldest position that a shard holds, 1 when it holds none, and the highest, from one snapshot.
pub(crate) async fn bounds(connection: &mut PgConnection, shard: Shard) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as(
        "SELECT coalesce((SELECT position FROM outbox WHERE shard = $1 ORDER BY position LIMIT 1), 1), \
                outbox_head($1)",
    )
    .bind(shard)
    .fetch_one(connection)
    .in_time()
    .await
}
