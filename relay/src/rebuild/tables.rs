//! The tables of a projection: empty copies of them, and their locks.

use sqlx::PgConnection;

use crate::in_time::InTime as _;
use crate::sqlstate::is_lock_timeout;

/// Login and database, each quoted, if this login may not create a schema in it.
pub(super) async fn refused_schemas(
    home: &mut PgConnection,
) -> Result<Option<(String, String)>, sqlx::Error> {
    let refused = "SELECT quote_ident(current_user), quote_ident(current_database()) \
                   WHERE NOT has_database_privilege(current_database(), 'CREATE')";
    sqlx::query_as(refused).fetch_optional(home).in_time().await
}

/// Creates empty copies of these tables, and of the tables of positions and parked events, in schema `schema`.
pub(super) async fn create(
    home: &mut PgConnection,
    schema: &str,
    tables: &[&str],
) -> Result<(), sqlx::Error> {
    let mut statements = vec![
        "BEGIN".to_owned(),
        format!("DROP SCHEMA IF EXISTS \"{schema}\" CASCADE"),
        format!("CREATE SCHEMA \"{schema}\""),
    ];
    let tables = tables.iter().chain(&["projection_positions", "parked_events"]);
    statements.extend(
        tables.map(|table| format!("CREATE TABLE \"{schema}\".\"{table}\" (LIKE \"{table}\" INCLUDING ALL)")),
    );
    statements.push("COMMIT".to_owned());
    sqlx::raw_sql(&statements.join(";")).execute(home).in_time().await.map(drop)
}

/// Begins a transaction that holds these tables. Returns false, without one, when they are in use.
pub(super) async fn lock(home: &mut PgConnection, tables: &[&str]) -> Result<bool, sqlx::Error> {
    let quoted: Vec<String> = tables.iter().map(|table| format!("\"{table}\"")).collect();
    // In the order in which projectors take these locks.
    let lock = format!(
        "BEGIN; LOCK TABLE parked_events IN EXCLUSIVE MODE; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE; \
         LOCK TABLE projection_positions IN EXCLUSIVE MODE",
        quoted.join(", ")
    );
    match sqlx::raw_sql(&lock).execute(&mut *home).in_time().await {
        Ok(_) => Ok(true),
        Err(error) if is_lock_timeout(&error) => {
            sqlx::raw_sql("ROLLBACK").execute(home).in_time().await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
