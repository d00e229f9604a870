//! Preparation of Postgres, waiting, and sizes from the environment.

use std::time::Duration;

use anyhow::{Context as _, Result};
use coupon_dispatcher::servers::Servers;
use sqlx::{Connection as _, PgConnection};
use tokio::time::sleep;

/// Short against everything that is timed with [`wait_for`] or [`wait_until`].
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Creates 120 WAL files of 16 MiB (2 GB), which Postgres keeps and uses again. A server that has run for a
/// while has such files. A new server creates one every half second under this load and zeroes and syncs it,
/// which keeps the disk busy for 50 ms while every commit waits: p99 rose from under 32 ms to over 60 ms at about
/// 400,000 coupons.
const WAL_FILES: &str = "DO $$ BEGIN FOR i IN 1 .. 120 LOOP \
    PERFORM pg_logical_emit_message(false, 'bench', 'x'); PERFORM pg_switch_wal(); END LOOP; END $$";

/// Gives a new Postgres the WAL files of one that has run for a while.
pub(crate) async fn make_wal_files(servers: &Servers) -> Result<()> {
    let mut connection = PgConnection::connect(&servers.database_url()).await?;
    sqlx::raw_sql(WAL_FILES).execute(&mut connection).await.context("create WAL files")?;
    sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await?;
    Ok(())
}

/// Calls `ask` every [`POLL_INTERVAL`] until it returns a value or fails.
pub(crate) async fn wait_for<T>(mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Calls `holds` every [`POLL_INTERVAL`] until it returns true or fails.
pub(crate) async fn wait_until(mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    wait_for(async || Ok(holds().await?.then_some(()))).await
}

/// The number in an environment variable, or `default` when it is unset or no number.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
