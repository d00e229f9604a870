//! Which deployment a database belongs to: its name and its id are kept in the table `deployment` from the first
//! migration on. A process of another deployment does not start on it.

use outbox_relay::deployment::{Deployment, DeploymentName};
use outbox_relay::in_time::InTime as _;
use sqlx::{Connection as _, FromRow, PgConnection};
use uuid::Uuid;

use crate::config::FIRST_DEPLOYMENT;

/// Why a database is not that of a deployment.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    #[error("read the deployment")]
    Database(#[from] sqlx::Error),
    #[error(
        "the database belongs to deployment {theirs}, and DEPLOYMENT says {ours} (unset, it says {FIRST_DEPLOYMENT}): set \
         DEPLOYMENT={theirs}, or connect to the database of {ours}. If this database is a copy that {ours} takes over, \
         stop every process on it and run: UPDATE deployment SET name = '{ours}', id = gen_random_uuid()"
    )]
    Another { theirs: String, ours: DeploymentName },
    #[error(
        "schema {schema} of this database has a deployment {name} too, and deployments of one name in one database have \
         the same locks: set DEPLOYMENT to another name, and migrate again. If this schema has a deployment already, first stop \
         every process on it and run there: UPDATE deployment SET name = '<another name>', id = gen_random_uuid()"
    )]
    NameTaken { schema: String, name: DeploymentName },
    #[error(
        "schema {schema} of this database has a deployment whose name this login may not read, and deployments of one name \
         in one database have the same locks: grant this login USAGE on schema {schema}, and SELECT on its table deployment"
    )]
    NameHidden { schema: String },
}

/// The deployment of this name in this database.
fn deployment(name: DeploymentName, id: Uuid) -> Deployment {
    Deployment { name, id, is_plain: name.as_str() == FIRST_DEPLOYMENT }
}

/// The deployment that the database belongs to, and the number of its shards; `None` before the first migration.
///
/// # Errors
/// When Postgres fails, or the schema is older than the names of deployments.
pub async fn read(connection: &mut PgConnection) -> Result<Option<(Deployment, i16)>, sqlx::Error> {
    let row: Option<(String, Uuid, i16)> = sqlx::query_as("SELECT name, id, shards FROM deployment")
        .fetch_optional(connection)
        .in_time()
        .await?;
    let parsed = row.map(|(name, id, shards)| Ok((deployment(name.parse()?, id), shards)));
    parsed.transpose().map_err(|error: outbox_relay::deployment::DeploymentNameError| {
        sqlx::Error::Decode(format!("the name of the deployment {error}").into())
    })
}

/// Makes sure that the database may become, or is, that of the deployment `ours`. For a database of any age, before it is
/// migrated; it only reads.
///
/// # Errors
/// See [`DeploymentError`].
pub(crate) async fn may_migrate(
    connection: &mut PgConnection,
    ours: DeploymentName,
) -> Result<(), DeploymentError> {
    let is_migrated: bool = sqlx::query_scalar("SELECT to_regclass('deployment') IS NOT NULL")
        .fetch_one(&mut *connection)
        .in_time()
        .await?;
    let theirs = if is_migrated { name_in(connection, None).await? } else { None };
    match theirs {
        Some(theirs) => is_ours(&theirs, ours),
        None => is_free(connection, ours).await,
    }
}

/// Gives the migrated database its deployment, unless it has one.
///
/// # Errors
/// See [`DeploymentError`].
pub(crate) async fn claim(
    connection: &mut PgConnection,
    ours: DeploymentName,
    shards: i16,
) -> Result<(), DeploymentError> {
    let mut transaction = connection.begin().in_time().await?;
    // One migration at a time, whatever its schema: the next one sees the name.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('deployment'), 0)")
        .execute(&mut *transaction)
        .in_time()
        .await?;
    is_free(&mut transaction, ours).await?;
    sqlx::query("INSERT INTO deployment (shards, name) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(shards)
        .bind(ours.as_str())
        .execute(&mut *transaction)
        .in_time()
        .await?;
    Ok(transaction.commit().in_time().await?)
}

/// # Errors
/// When the database of deployment `theirs` is not that of `ours`.
pub(crate) fn is_ours(theirs: &str, ours: DeploymentName) -> Result<(), DeploymentError> {
    if theirs == ours.as_str() {
        return Ok(());
    }
    Err(DeploymentError::Another { theirs: theirs.to_owned(), ours })
}

/// The tables `deployment` of other schemas.
const OTHERS: &str = "SELECT nspname::text AS schema, quote_ident(nspname) AS quoted, \
        has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS is_readable \
    FROM pg_constraint JOIN pg_class c ON c.oid = conrelid JOIN pg_namespace n ON n.oid = relnamespace \
    WHERE conname = 'deployment_is_single' AND relname = 'deployment' AND nspname IS DISTINCT FROM current_schema() \
    ORDER BY nspname";

#[derive(FromRow)]
struct Other {
    schema: String,
    quoted: String,
    is_readable: bool,
}

/// Makes sure that no other schema of the database has a deployment of this name.
async fn is_free(connection: &mut PgConnection, name: DeploymentName) -> Result<(), DeploymentError> {
    let others: Vec<Other> = sqlx::query_as(OTHERS).fetch_all(&mut *connection).in_time().await?;
    for Other { schema, quoted, is_readable } in others {
        if !is_readable {
            return Err(DeploymentError::NameHidden { schema });
        }
        if name_in(connection, Some(&quoted)).await?.as_deref() == Some(name.as_str()) {
            return Err(DeploymentError::NameTaken { schema, name });
        }
    }
    Ok(())
}

/// The name of the deployment in a schema, which is quoted, or in the current one; `None` when the table has no row. A
/// table that is older than names belongs to the first deployment.
async fn name_in(connection: &mut PgConnection, schema: Option<&str>) -> Result<Option<String>, sqlx::Error> {
    let table = schema.map_or_else(|| "deployment".to_owned(), |schema| format!("{schema}.deployment"));
    // As JSON, because the column may not exist.
    let name = format!("SELECT coalesce(to_jsonb(row) ->> 'name', $1) FROM {table} AS row");
    sqlx::query_scalar(&name).bind(FIRST_DEPLOYMENT).fetch_optional(connection).in_time().await
}
