//! Leadership: a session-level advisory lock, held by the connection that does the work. A process that loses
//! the connection loses the lock, and can no longer commit.

use std::pin::pin;
use std::time::Duration;

use crate::holders::of_holders;
use crate::in_time::InTime as _;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::{Instant, sleep, timeout};

/// How often a process that stands by tries to take the lock.
const STAND_BY_INTERVAL: Duration = Duration::from_millis(250);
/// After this time of standing by the log says once which session holds the lock: a takeover takes up to 10 s, and
/// after that it is another process that works, wanted or not.
const STAND_BY_UNTOLD: Duration = Duration::from_secs(10);
/// How long a command waits for the lock of a process that was killed a moment ago, until Postgres notices.
pub(crate) const GRACE: Duration = Duration::from_millis(500);
/// How often a leader that waits for something else uses its session, to keep it.
const PING_INTERVAL: Duration = Duration::from_secs(3);

/// Settings of the session that holds the lock, enforced by the server. A leader uses its session at least
/// every 5 s. The session of a frozen leader is ended after 10 s; that of a leader whose machine is gone, after
/// 5 s. The lock then goes to a process that stands by.
const SESSION: [(&str, &str); 8] = [
    // A leader runs the same statements for every batch: one plan for all.
    ("plan_cache_mode", "force_generic_plan"),
    ("idle_session_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("tcp_keepalives_idle", "2"),
    ("tcp_keepalives_interval", "1"),
    ("tcp_keepalives_count", "3"),
    // A reply that the machine of the leader does not acknowledge; a leader that has gone during a statement.
    ("tcp_user_timeout", "5s"),
    ("client_connection_check_interval", "2s"),
];

/// Connects, and returns the connection once it holds the lock `(class, number)`, and whether it took it at once.
/// `connected` is called before it waits.
pub(crate) async fn take(
    database: &PgConnectOptions,
    class: &str,
    number: i16,
    connected: impl FnOnce(),
) -> Result<(PgConnection, bool), sqlx::Error> {
    let mut connection = connect(database).await?;
    connected();
    let mut at_once = true;
    let waits_since = Instant::now();
    let mut told = false;
    while !lock(&mut connection, class, number).await? {
        if !told && waits_since.elapsed() >= STAND_BY_UNTOLD {
            told = tell_holder(&mut connection, class, number).await?;
        }
        at_once = false;
        sleep(STAND_BY_INTERVAL).await;
    }
    Ok((connection, at_once))
}

/// Connects, and returns the connection, and whether it took the lock `(class, number)` within `patience`.
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

/// Waits, and uses the session often enough to keep it.
///
/// # Errors
/// When the session is lost nevertheless; `wait` is dropped then.
pub(crate) async fn keep<T>(
    connection: &mut PgConnection,
    wait: impl Future<Output = T>,
) -> Result<T, sqlx::Error> {
    let mut wait = pin!(wait);
    loop {
        match timeout(PING_INTERVAL, &mut wait).await {
            Ok(done) => return Ok(done),
            Err(_) => connection.ping().in_time().await?,
        }
    }
}

async fn connect(database: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    database.clone().options(SESSION).connect().in_time().await
}

async fn lock(connection: &mut PgConnection, class: &str, number: i16) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext($1), $2)")
        .bind(class)
        .bind(i32::from(number))
        .fetch_one(connection)
        .in_time()
        .await
}

/// Which session holds the lock with number `$2`.
const HOLDER: &str = of_holders!(
    "format('process %s of Postgres (application %s, address %s, since %s)', pid, \
        coalesce(application_name, 'unknown'), coalesce(host(client_addr), 'local or unknown'), \
        coalesce(date_trunc('second', backend_start)::text, 'unknown'))",
    "AND objid::bigint = $2"
);

/// Logs which session holds the lock. Returns whether one does.
async fn tell_holder(connection: &mut PgConnection, class: &str, number: i16) -> Result<bool, sqlx::Error> {
    let holder: Option<String> = sqlx::query_scalar(HOLDER)
        .bind(class)
        .bind(i64::from(number))
        .fetch_optional(connection)
        .in_time()
        .await?;
    if let Some(holder) = &holder {
        tracing::info!(lock = class, shard = number, "stands by, because the lock is held by {holder}");
    }
    Ok(holder.is_some())
}
