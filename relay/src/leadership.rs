//! One at a time: a session-level advisory lock, held by the connection that does the work. A
//! process that loses the connection loses the lock with it, and can no longer commit.

use std::pin::pin;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::{Instant, sleep, timeout};

/// The class of the advisory lock that the active relay of a shard holds.
pub(crate) const RELAY_LOCK: &str = "outbox_relay";
/// How often a process that stands by asks for the lock.
const STAND_BY_INTERVAL: Duration = Duration::from_millis(250);
/// How often a leader that waits for others asks.
const PING_INTERVAL: Duration = Duration::from_secs(3);

/// Of the session that holds the lock, kept by the server. A leader asks at least every 5 s; one that
/// is frozen loses its session, and with it the lock, to those that stand by. One whose machine is gone
/// does not answer for 5 s.
const SESSION: [(&str, &str); 6] = [
    // What a leader runs, it runs for every batch: one plan for all.
    ("plan_cache_mode", "force_generic_plan"),
    ("idle_session_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("tcp_keepalives_idle", "2"),
    ("tcp_keepalives_interval", "1"),
    ("tcp_keepalives_count", "3"),
];

/// Connects, and answers the connection once it holds the lock `(class, number)`.
pub(crate) async fn take(
    database: &PgConnectOptions,
    class: &str,
    number: i16,
) -> Result<PgConnection, sqlx::Error> {
    let mut connection = connect(database).await?;
    while !lock(&mut connection, class, number).await? {
        sleep(STAND_BY_INTERVAL).await;
    }
    Ok(connection)
}

/// Connects, and answers the connection with whether it could take the lock `(class, number)`
/// within `patience`.
pub(crate) async fn try_take(
    database: &PgConnectOptions,
    class: &str,
    number: i16,
    patience: Duration,
) -> Result<(PgConnection, bool), sqlx::Error> {
    let mut connection = connect(database).await?;
    let deadline = Instant::now() + patience;
    let mut taken = lock(&mut connection, class, number).await?;
    while !taken && Instant::now() < deadline {
        sleep(STAND_BY_INTERVAL).await;
        taken = lock(&mut connection, class, number).await?;
    }
    Ok((connection, taken))
}

/// Waits, and meanwhile asks often enough to keep the session.
///
/// # Errors
/// When the session is lost all the same; what was waited for is given up.
pub(crate) async fn keep<T>(
    connection: &mut PgConnection,
    wait: impl Future<Output = T>,
) -> Result<T, sqlx::Error> {
    let mut wait = pin!(wait);
    loop {
        match timeout(PING_INTERVAL, &mut wait).await {
            Ok(done) => return Ok(done),
            Err(_) => connection.ping().await?,
        }
    }
}

async fn connect(database: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    database.clone().options(SESSION).connect().await
}

async fn lock(connection: &mut PgConnection, class: &str, number: i16) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext($1), $2)")
        .bind(class)
        .bind(i32::from(number))
        .fetch_one(connection)
        .await
}
