//! The schema: numbered migrations for tables, and repeatable files for functions.
//!
//! A migration is applied once and never changes. A function's file is applied again whenever its text changes, after
//! the migrations. Programs of two versions run on one database during an upgrade, so a function has a revision,
//! counted by hand, and the table `schema_functions` holds the highest that was applied: the newer program replaces
//! the function, the older program accepts it and never takes it back. A hash alone could not tell older from newer:
//! a program that the database has never seen may be the one before.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection as _, PgConnection};
use tokio::time::sleep;

use crate::deployment::Deployment;
use crate::in_time::{InTime as _, LONG_TIMEOUT};

/// A function of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    pub name: &'static str,
    /// From 1; it rises by one whenever `text` changes.
    pub revision: i32,
    /// One `CREATE OR REPLACE FUNCTION`. Another signature is another function, with another name.
    pub text: &'static str,
}

/// The functions of the outbox.
pub const FUNCTIONS: &[Function] = &[
    Function { name: "outbox_add_partitions", revision: 1, text: include_str!("outbox_add_partitions.sql") },
    Function { name: "outbox_append", revision: 2, text: include_str!("outbox_append.sql") },
    Function { name: "outbox_append_2", revision: 1, text: include_str!("outbox_append_2.sql") },
    Function { name: "outbox_check", revision: 1, text: include_str!("outbox_check.sql") },
    Function { name: "outbox_drop_partition", revision: 1, text: include_str!("outbox_drop_partition.sql") },
    Function { name: "outbox_head", revision: 1, text: include_str!("outbox_head.sql") },
    Function { name: "outbox_lock", revision: 2, text: include_str!("outbox_lock.sql") },
    Function { name: "outbox_swap_table", revision: 1, text: include_str!("outbox_swap_table.sql") },
    Function { name: "projection_position", revision: 1, text: include_str!("projection_position.sql") },
];

/// The lock of the session that applies a schema. It is never waited for in a statement: CREATE INDEX CONCURRENTLY waits for
/// every statement in progress, and one that waited for this lock would wait for the index.
const TURN: &str = "apply a schema";
/// From one attempt to take that lock to the next.
const TURN_INTERVAL: Duration = Duration::from_millis(100);

/// The class of the locks that appending transactions take.
const APPEND_LOCK: &str = "outbox_append";

/// Why a schema was not applied. What was applied before the failure stays; applying again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("apply migrations")]
    Migrations(#[from] MigrateError),
    #[error("read which functions are applied")]
    Database(#[from] sqlx::Error),
    #[error("apply function {name}")]
    Function {
        name: &'static str,
        #[source]
        error: sqlx::Error,
    },
    #[error("function {name} has changed its signature: the changed function needs a new name")]
    Signature { name: &'static str },
}

/// How a database differs from what a program needs. A newer database lacks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lack {
    /// Migrations and functions that were never applied, or only in an older revision, each in words. Applying the
    /// schema adds them.
    pub missing: Vec<String>,
    /// Functions that were applied and are gone. A later version has dropped them, so this program is too old.
    pub dropped: Vec<String>,
}

/// Tables and functions that belong together.
#[derive(Debug)]
pub struct Schema {
    migrations: Migrator,
    functions: &'static [Function],
}

/// The tables and functions of the outbox.
#[must_use]
pub fn outbox() -> Schema {
    Schema::new(sqlx::migrate!("./migrations"), FUNCTIONS)
}

/// Applies the schema of the outbox: see [`Schema::apply`].
///
/// # Errors
/// See [`ApplyError`].
pub async fn migrate(connection: &mut PgConnection) -> Result<(), ApplyError> {
    outbox().apply(connection).await
}

/// Gives the outbox in the current schema the locks of a deployment, which appending transactions take. Call
/// it after [`Schema::apply`]. While it gives other locks than before, nothing may append.
///
/// # Errors
/// When Postgres fails, or the login does not own the functions.
pub async fn separate_locks(
    connection: &mut PgConnection,
    deployment: &Deployment,
) -> Result<(), sqlx::Error> {
    let class = deployment.qualify(APPEND_LOCK, '@');
    let is_set: bool = sqlx::query_scalar("SELECT outbox_lock_class() = hashtext($1)")
        .bind(&class)
        .fetch_one(&mut *connection)
        .await?;
    if is_set {
        return Ok(());
    }
    let replace = format!(
        "CREATE OR REPLACE FUNCTION outbox_lock_class() RETURNS integer LANGUAGE sql IMMUTABLE \
         AS $$ SELECT hashtext('{class}') $$"
    );
    sqlx::raw_sql(&replace).execute(connection).await.map(drop)
}

impl Schema {
    /// Several schemas of a database share the table of migrations, so each ignores versions that it does not know.
    /// Their functions share `schema_functions`, which the outbox's migrations create.
    #[must_use]
    pub fn new(mut migrations: Migrator, functions: &'static [Function]) -> Self {
        migrations.set_ignore_missing(true);
        Self { migrations, functions }
    }

    /// Applies the migrations that are missing, then the functions, those in one transaction: a function whose
    /// recorded revision is lower, or the same with another text. It can be repeated, and run while other programs
    /// work on the database.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn apply(&self, connection: &mut PgConnection) -> Result<(), ApplyError> {
        wait_for_turn(connection).await?;
        let applied = self.apply_in_turn(&mut *connection).await;
        // After an error the session is of no use, and gives the lock back when it ends.
        if applied.is_ok() {
            sqlx::query("SELECT pg_advisory_unlock(hashtext($1))").bind(TURN).execute(connection).await?;
        }
        applied
    }

    async fn apply_in_turn(&self, connection: &mut PgConnection) -> Result<(), ApplyError> {
        self.drop_unrecorded_indexes(&mut *connection).await?;
        self.migrations.run(&mut *connection).await?;
        let mut transaction = connection.begin().await?;
        // One at a time, so that an older program does not overwrite what a newer one applies meanwhile.
        sqlx::query("LOCK TABLE schema_functions IN SHARE ROW EXCLUSIVE MODE")
            .execute(&mut *transaction)
            .await?;
        let old = old(&mut transaction, self.functions).await?;
        for function in self.functions.iter().filter(|function| old.iter().any(|name| name == function.name))
        {
            replace(&mut transaction, function).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The build of an index without a transaction leaves the index when it is interrupted, whole or invalid, and the
    /// migration is not recorded. Without that index it can be repeated.
    async fn drop_unrecorded_indexes(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !exists(connection, "_sqlx_migrations").await? {
            return Ok(());
        }
        for migration in self.migrations.iter().filter(|migration| migration.no_tx) {
            let mut words = migration.sql.split_whitespace().skip_while(|word| *word != "CONCURRENTLY");
            let Some(index) = words.nth(1) else { continue };
            let is_recorded = "SELECT EXISTS (SELECT FROM _sqlx_migrations WHERE version = $1 AND success)";
            if !sqlx::query_scalar(is_recorded).bind(migration.version).fetch_one(&mut *connection).await? {
                let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
                sqlx::raw_sql(&drop).execute(&mut *connection).await?;
            }
        }
        Ok(())
    }

    /// What the database lacks for a program with this schema.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn lack(&self, connection: &mut PgConnection) -> Result<Lack, sqlx::Error> {
        let versions: Vec<i64> = self.migrations.iter().map(|migration| migration.version).collect();
        let missing = if exists(connection, "_sqlx_migrations").await? {
            let missing = "SELECT version FROM unnest($1::bigint[]) AS version \
                           WHERE version NOT IN (SELECT version FROM _sqlx_migrations WHERE success)";
            sqlx::query_scalar(missing).bind(versions).fetch_all(&mut *connection).await?
        } else {
            versions
        };
        let mut lack = Lack {
            missing: missing.iter().map(|version: &i64| format!("migration {version}")).collect(),
            dropped: Vec::new(),
        };
        // Their table comes with a migration.
        if exists(connection, "schema_functions").await? {
            let old = old(connection, self.functions).await?;
            let names: Vec<&str> = self.functions.iter().map(|function| function.name).collect();
            lack.dropped = sqlx::query_scalar(DROPPED).bind(names).bind(&old).fetch_all(connection).await?;
            lack.missing.extend(old.iter().map(|name| format!("function {name}")));
        } else {
            lack.missing.extend(self.functions.iter().map(|function| format!("function {}", function.name)));
        }
        Ok(lack)
    }
}

/// Names of functions, of those given with revision and text, that are not recorded as new as that.
const OLD: &str = "SELECT name FROM unnest($1::text[], $2::integer[], $3::text[]) AS needed (name, revision, text) \
                   LEFT JOIN schema_functions AS applied USING (name) \
                   WHERE applied.revision IS NULL OR applied.revision < needed.revision \
                      OR (applied.revision = needed.revision AND applied.hash <> \
                          encode(sha256(convert_to(needed.text, 'UTF8')), 'hex'))";

/// Names of functions, of those given and without those that are only old, that are not in the database.
const DROPPED: &str = "SELECT name FROM unnest($1::text[]) AS name \
                       WHERE name <> ALL ($2::text[]) AND NOT EXISTS ( \
                           SELECT FROM pg_proc WHERE proname = name AND pg_function_is_visible(oid))";

/// `CREATE OR REPLACE` resets whose rights a function has and its search path, which an administrator may have
/// set: the statements that set both again as they are now.
const KEPT: &str = "SELECT format('ALTER FUNCTION %I %s', proname, property) FROM pg_proc, LATERAL ( \
                        SELECT 'SECURITY DEFINER' AS property WHERE prosecdef UNION ALL \
                        SELECT 'SET ' || setting FROM unnest(proconfig) AS setting \
                        WHERE setting LIKE 'search_path=%' \
                    ) AS kept \
                    WHERE proname = $1 AND pronamespace = to_regnamespace(quote_ident(current_schema()))";

const SIGNATURES: &str = "SELECT count(*) FROM pg_proc \
                          WHERE proname = $1 AND pronamespace = to_regnamespace(quote_ident(current_schema()))";

const RECORD: &str = "INSERT INTO schema_functions (name, revision, hash) \
                      VALUES ($1, $2, encode(sha256(convert_to($3, 'UTF8')), 'hex')) \
                      ON CONFLICT (name) DO UPDATE \
                      SET revision = excluded.revision, hash = excluded.hash, applied_at = now()";

/// Waits until no other session applies a schema to the database.
async fn wait_for_turn(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let turn = async {
        loop {
            let is_ours: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext($1))")
                .bind(TURN)
                .fetch_one(&mut *connection)
                .await?;
            if is_ours {
                return Ok(());
            }
            sleep(TURN_INTERVAL).await;
        }
    };
    turn.within(LONG_TIMEOUT).await
}

async fn exists(connection: &mut PgConnection, table: &'static str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table).fetch_one(connection).await
}

async fn old(connection: &mut PgConnection, functions: &[Function]) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(OLD)
        .bind(functions.iter().map(|function| function.name).collect::<Vec<_>>())
        .bind(functions.iter().map(|function| function.revision).collect::<Vec<_>>())
        .bind(functions.iter().map(|function| function.text).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}

async fn replace(transaction: &mut PgConnection, function: &Function) -> Result<(), ApplyError> {
    let Function { name, revision, text } = *function;
    let failed = |error| ApplyError::Function { name, error };
    let kept: Vec<String> =
        sqlx::query_scalar(KEPT).bind(name).fetch_all(&mut *transaction).await.map_err(failed)?;
    sqlx::raw_sql(text).execute(&mut *transaction).await.map_err(failed)?;
    let signatures: i64 =
        sqlx::query_scalar(SIGNATURES).bind(name).fetch_one(&mut *transaction).await.map_err(failed)?;
    if signatures != 1 {
        return Err(ApplyError::Signature { name });
    }
    for statement in kept {
        sqlx::raw_sql(&statement).execute(&mut *transaction).await.map_err(failed)?;
    }
    let record = sqlx::query(RECORD).bind(name).bind(revision).bind(text);
    record.execute(transaction).await.map_err(failed)?;
    Ok(())
}
