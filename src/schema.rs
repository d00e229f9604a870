//! The schema: applied by `coupon migrate`, and checked by everybody else.

use std::collections::HashSet;

use sqlx::PgConnection;
use sqlx::migrate::Migrator;

/// What keeps a process from starting on a database.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("apply migrations")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("read the schema")]
    Database(#[from] sqlx::Error),
    #[error("the schema is older than this program ({missing} migrations are missing): run `coupon migrate`")]
    Old { missing: usize },
    #[error("the database has {fixed} shards since its first migration, SHARDS says {asked}")]
    Shards { fixed: i16, asked: i16 },
}

fn migrators() -> [Migrator; 2] {
    let mut own = sqlx::migrate!("./migrations");
    own.set_ignore_missing(true); // those of the outbox
    [outbox_relay::migrator(), own]
}

/// Applies all migrations, and fixes the number of shards if this is the first time.
pub async fn migrate(connection: &mut PgConnection, shards: i16) -> Result<(), SchemaError> {
    for migrator in migrators() {
        migrator.run(&mut *connection).await?;
    }
    sqlx::query("INSERT INTO deployment (shards) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(shards)
        .execute(&mut *connection)
        .await?;
    check(connection, shards).await
}

/// Makes sure that the schema is at least as new as this program, and cut into `shards`.
pub async fn check(connection: &mut PgConnection, shards: i16) -> Result<(), SchemaError> {
    let needed: Vec<i64> = migrators()
        .iter()
        .flat_map(|migrator| migrator.iter().map(|migration| migration.version).collect::<Vec<_>>())
        .collect();
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    let applied: HashSet<i64> = if exists {
        let versions: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(&mut *connection)
            .await?;
        versions.into_iter().collect()
    } else {
        HashSet::new()
    };
    let missing = needed.iter().filter(|version| !applied.contains(version)).count();
    if missing > 0 {
        return Err(SchemaError::Old { missing });
    }
    let fixed: Option<i16> =
        sqlx::query_scalar("SELECT shards FROM deployment").fetch_optional(connection).await?;
    match fixed {
        Some(fixed) if fixed == shards => Ok(()),
        Some(fixed) => Err(SchemaError::Shards { fixed, asked: shards }),
        None => Err(SchemaError::Old { missing: 1 }),
    }
}
