//! How far each projection has applied each shard: table `projection_positions`.

use sqlx::PgConnection;

use crate::in_time::InTime as _;
use crate::outlet::Shard;

/// The last position that a projection has applied; 0 before the first.
pub(crate) async fn read(
    connection: &mut PgConnection,
    projection: &str,
    shard: Shard,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT projection_position($1, $2)")
        .bind(projection)
        .bind(shard)
        .fetch_one(connection)
        .in_time()
        .await
}

/// Records `position` for each of these projections. Adds rows and updates none.
pub(crate) async fn save(
    transaction: &mut PgConnection,
    projections: &[&str],
    shard: Shard,
    position: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO projection_positions (projection, shard, position) SELECT unnest($1::text[]), $2, $3",
    )
    .bind(projections)
    .bind(shard)
    .bind(position)
    .execute(transaction)
    .in_time()
    .await
    .map(drop)
}

/// Removes the rows below `position`.
pub(crate) async fn prune(
    transaction: &mut PgConnection,
    projections: &[&str],
    shard: Shard,
    position: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM projection_positions WHERE projection = ANY ($1) AND shard = $2 AND position < $3",
    )
    .bind(projections)
    .bind(shard)
    .bind(position)
    .execute(transaction)
    .in_time()
    .await
    .map(drop)
}
