//! The schema: applied by `coupon migrate`, and checked by every other process at its start.

use outbox_relay::in_time::InTime as _;
use outbox_relay::schema::{self, ApplyError, Function, Schema};
use sqlx::PgConnection;

/// The functions of this program, beside those of the outbox.
pub const FUNCTIONS: &[Function] =
    &[Function { name: "issue_batch", revision: 3, text: include_str!("issue/issue_batch.sql") }];

/// Why a process does not start on a database.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("apply the schema")]
    Apply(#[from] ApplyError),
    #[error("read the schema")]
    Database(#[from] sqlx::Error),
    #[error("the schema is older than this program (missing: {missing}): run `coupon migrate`")]
    Old { missing: String },
    #[error("this program is older than the schema, which has dropped functions that it calls: {dropped}")]
    Dropped { dropped: String },
    #[error("the database has {fixed} shards since its first migration, SHARDS says {asked}")]
    Shards { fixed: i16, asked: i16 },
}

/// In the order in which they are applied.
fn schemas() -> [Schema; 2] {
    [schema::outbox(), Schema::new(sqlx::migrate!("./migrations"), FUNCTIONS)]
}

/// Applies all migrations and functions, and fixes the number of shards if this is the first time.
///
/// # Errors
/// See [`SchemaError`].
pub async fn migrate(connection: &mut PgConnection, shards: i16) -> Result<(), SchemaError> {
    for schema in schemas() {
        schema.apply(connection).await?;
    }
    sqlx::query("INSERT INTO deployment (shards) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(shards)
        .execute(&mut *connection)
        .in_time()
        .await?;
    check(connection, shards).await
}

/// Makes sure that the schema is at least as new as this program, and that the database has `shards` shards. It
/// only reads, and a newer schema passes.
///
/// # Errors
/// See [`SchemaError`].
pub async fn check(connection: &mut PgConnection, shards: i16) -> Result<(), SchemaError> {
    let (mut missing, mut dropped) = (Vec::new(), Vec::new());
    for schema in schemas() {
        let lack = schema.lack(connection).await?;
        missing.extend(lack.missing);
        dropped.extend(lack.dropped);
    }
    if !missing.is_empty() {
        return Err(SchemaError::Old { missing: missing.join(", ") });
    }
    if !dropped.is_empty() {
        return Err(SchemaError::Dropped { dropped: dropped.join(", ") });
    }
    let fixed: Option<i16> =
        sqlx::query_scalar("SELECT shards FROM deployment").fetch_optional(connection).in_time().await?;
    match fixed {
        Some(fixed) if fixed == shards => Ok(()),
        Some(fixed) => Err(SchemaError::Shards { fixed, asked: shards }),
        None => Err(SchemaError::Old { missing: "the number of shards".to_owned() }),
    }
}
