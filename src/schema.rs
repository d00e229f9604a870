//! The schema: applied by `coupon migrate`, and checked by every other process at its start.

use std::error::Error;

use outbox_relay::deployment::{Deployment, DeploymentName};
use outbox_relay::in_time::InTime as _;
use outbox_relay::schema::{self, ApplyError, Function, Schema};
use sqlx::PgConnection;
use sqlx::error::DatabaseError;

use crate::deployment::{self, DeploymentError};

/// The functions of this program, beside those of the outbox.
pub const FUNCTIONS: &[Function] = &[
    Function { name: "change_coupons", revision: 1, text: include_str!("lifecycle/change_coupons.sql") },
    Function {
        name: "idempotency_remove_old",
        revision: 1,
        text: include_str!("idempotency/idempotency_remove_old.sql"),
    },
    Function {
        name: "idempotency_slot",
        revision: 1,
        text: include_str!("idempotency/idempotency_slot.sql"),
    },
    Function { name: "issue_batch", revision: 5, text: include_str!("issue/issue_batch.sql") },
    Function { name: "issue_batch_2", revision: 4, text: include_str!("issue/issue_batch_2.sql") },
];

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
    #[error(
        "the database has no schema {search_path} that login {login} may use: create it with CREATE SCHEMA {search_path} \
         AUTHORIZATION {login}, or correct the search_path in DATABASE_URL, and run `coupon migrate` again"
    )]
    NoSchema { search_path: String, login: String },
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
}

impl SchemaError {
    /// Whether a migration waited for a lock for longer than its `lock_timeout`: nothing of it was applied.
    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let error_of_database = error.downcast_ref().and_then(sqlx::Error::as_database_error);
            if error_of_database.and_then(DatabaseError::code).is_some_and(|code| code == LOCK_NOT_AVAILABLE)
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// SQLSTATE `lock_not_available`.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// The search path and the login, if nothing on the path can be used.
const NO_SCHEMA: &str =
    "SELECT current_setting('search_path'), quote_ident(current_user) WHERE current_schema() IS NULL";

/// In the order in which they are applied.
fn schemas() -> [Schema; 2] {
    [schema::outbox(), Schema::new(sqlx::migrate!("./migrations"), FUNCTIONS)]
}

/// Applies all migrations and functions. The first time it fixes the number of shards and the name of the deployment.
///
/// # Errors
/// See [`SchemaError`]. Nothing was applied to the database of another deployment, or where the name is taken.
pub async fn migrate(
    connection: &mut PgConnection,
    shards: i16,
    name: DeploymentName,
) -> Result<(), SchemaError> {
    if let Some((search_path, login)) =
        sqlx::query_as(NO_SCHEMA).fetch_optional(&mut *connection).in_time().await?
    {
        return Err(SchemaError::NoSchema { search_path, login });
    }
    deployment::may_migrate(connection, name).await?;
    for schema in schemas() {
        schema.apply(connection).await?;
    }
    deployment::claim(connection, name, shards).await?;
    let deployment = check(connection, shards, name).await?;
    Ok(schema::separate_locks(connection, &deployment).await?)
}

/// Makes sure that the schema is at least as new as this program, and that the database has `shards` shards and belongs
/// to the deployment of this name, which it returns. It only reads, and a newer schema passes.
///
/// # Errors
/// See [`SchemaError`].
pub async fn check(
    connection: &mut PgConnection,
    shards: i16,
    name: DeploymentName,
) -> Result<Deployment, SchemaError> {
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
    let Some((deployment, fixed)) = deployment::read(connection).await? else {
        return Err(SchemaError::Old { missing: "the number of shards".to_owned() });
    };
    deployment::is_ours(deployment.name.as_str(), name)?;
    if fixed == shards { Ok(deployment) } else { Err(SchemaError::Shards { fixed, asked: shards }) }
}
