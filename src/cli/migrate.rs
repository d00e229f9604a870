//! `coupon migrate`: the schema, the number of shards and the name of the deployment.

use outbox_relay::in_time::InTime as _;

use super::ended::Ended;
use crate::config::Config;
use crate::connections::connect_database;
use crate::schema;

pub(super) async fn run(config: &Config) -> anyhow::Result<Ended> {
    apply(config).await?;
    tracing::info!(shards = config.shards, deployment = %config.deployment, "the schema is up to date");
    Ok(Ended::Done)
}

/// Applies the migrations that the database lacks. The first call fixes the number of shards and the name of the
/// deployment.
///
/// # Errors
/// When Postgres cannot be reached, refuses a migration, has another number of shards, belongs to another deployment, or
/// has another deployment of this name.
pub(super) async fn apply(config: &Config) -> anyhow::Result<()> {
    let mut connection = connect_database(config).await?;
    // Otherwise Postgres reports each table that exists already, and the log would show that as a message.
    sqlx::query("SET client_min_messages = warning").execute(&mut connection).in_time().await?;
    Ok(schema::migrate(&mut connection, config.shards, config.deployment).await?)
}
