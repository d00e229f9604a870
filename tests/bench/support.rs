//! What the benchmarks start from, how they wait, and how they print.

use std::time::Duration;

use anyhow::{Context as _, Result};
use coupon_dispatcher::schema;
use coupon_dispatcher::servers::Servers;
use sqlx::{Connection as _, PgConnection};
use tokio::time::sleep;

/// Short against whatever is timed until something has become true.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A server that has run for a while uses its WAL files again; a new one makes one of 16 MiB, zeroed
/// and synced, every half second of this load, and every commit waits for it: with the disk busy
/// for 50 ms (p99 rose from under 32 ms to 60 and more at about 400 thousand coupons). So 2 GB of
/// them are made before.
const WAL_FILES: &str = "DO $$ BEGIN FOR i IN 1 .. 120 LOOP \
    PERFORM pg_logical_emit_message(false, 'bench', 'x'); PERFORM pg_switch_wal(); END LOOP; END $$";

/// Private servers with the schema, and nothing in it.
pub(crate) async fn servers() -> Result<Servers> {
    let servers = Servers::start().await?;
    let mut connection = PgConnection::connect(&servers.database_url()).await?;
    schema::migrate(&mut connection, 1).await?;
    sqlx::raw_sql(WAL_FILES).execute(&mut connection).await.context("make WAL files")?;
    sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await?;
    Ok(servers)
}

/// Asks until there is an answer, or asking fails.
pub(crate) async fn wait_for<T>(mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Asks until it is so, or asking fails.
pub(crate) async fn wait_until(mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    wait_for(async || Ok(holds().await?.then_some(()))).await
}

/// What a variable of the environment says.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub(crate) fn heading() {
    println!("\n{:<60} {:>9}  goal", "", "measured");
}

pub(crate) fn line(name: &str, value: f64, goal: &str) {
    println!("{name:<60} {value:>9.2}  {goal}");
}
