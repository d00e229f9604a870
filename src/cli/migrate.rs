//! `coupon migrate`: the schema, the number of shards and the name of the deployment.

use std::time::Duration;

use outbox_relay::in_time::InTime as _;
use tokio::time::sleep;

use super::ended::Ended;
use crate::config::Config;
use crate::connections::connect_database;
use crate::schema;

/// How often a migration is attempted that waits for a lock for longer than its `lock_timeout` (migrations/README.md):
/// under 1,500 claims/s on a machine that was busy with other things, the eighth attempt succeeded.
const ATTEMPTS: u32 = 60;
/// Between two attempts, in which those who queued behind the lock are served.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run(config: &Config) -> anyhow::Result<Ended> {
    apply(config).await?;
    tracing::info!(shards = config.shards, deployment = %config.deployment, "the schema is up to date");
    Ok(Ended::Done)
}

/// Applies the migrations that the database lacks. The first call fixes the number of shards and the name of the
/// deployment.
///
/// # Errors
/// When Postgres cannot be reached, refuses a migration, has a table that is busy at each attempt, has another number of
/// shards, belongs to another deployment, or has another deployment of this name.
pub(super) async fn apply(config: &Config) -> anyhow::Result<()> {
    let mut connection = connect_database(config).await?;
    // Otherwise Postgres reports each table that exists already, and the log would show that as a message.
    sqlx::query("SET client_min_messages = warning").execute(&mut connection).in_time().await?;
    for attempt in 1.. {
        match schema::migrate(&mut connection, config.shards, config.deployment).await {
            Err(error) if error.is_lock_timeout() && attempt < ATTEMPTS => {
                tracing::warn!(
                    "a table is busy, nothing was changed: attempt {} of {ATTEMPTS} follows",
                    attempt + 1
                );
                sleep(PAUSE).await;
            }
            Err(error) if error.is_lock_timeout() => {
                let help = "a table was busy at each attempt, and what is not applied was not begun: end long \
                            transactions, or wait for a quieter hour, and run `coupon migrate` again";
                return Err(anyhow::Error::new(error).context(help));
            }
            result => return Ok(result?),
        }
    }
    Ok(())
}
