//! Checks of Postgres: whether it keeps what it commits, and has connections left.

use std::time::Duration;

use anyhow::Context as _;
use sqlx::{ConnectOptions as _, FromRow, PgConnection};
use tokio::time::timeout;

use super::clock;
use super::finding::{Finding, Health};
use super::tokens;
use crate::config::Config;
use crate::connections::{self, CONNECT_TIMEOUT, MONITOR_CONNECTIONS, POOL_CONNECTIONS};
use crate::schema::{self, SchemaError};

const POSTGRES: &str = "postgres";
/// The oldest version that is still maintained.
const OLDEST: i32 = 140_000;
/// Connections of a process for each shard, beside its pools: its writer, its relay, two projections, and two that wait
/// to become the active one.
const CONNECTIONS_OF_SHARD: u32 = 6;
/// Transactions that a finding names: enough to begin with.
const NAMED_MAX: i64 = 5;

/// `pg_stat_activity` hides the type of another login's session from a login without `pg_read_all_stats`. It shows login
/// and database, which processes of the server itself lack: a hidden session with both counts as a connection.
const SETTINGS: &str = "SELECT current_setting('server_version_num')::integer AS version_number, \
    current_setting('server_version') AS version, pg_is_in_recovery() AS standby, \
    current_setting('transaction_read_only')::boolean AS read_only, current_setting('fsync') AS fsync, \
    current_setting('full_page_writes') AS full_page_writes, \
    current_setting('synchronous_commit') AS synchronous_commit, \
    current_setting('synchronous_standby_names') AS standby_names, \
    EXISTS (SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')) AS standby_is_there, current_setting('autovacuum') AS autovacuum, \
    current_setting('min_wal_size') AS min_wal_size, current_setting('max_wal_size') AS max_wal_size, \
    pg_size_bytes(current_setting('min_wal_size')) >= pg_size_bytes(current_setting('max_wal_size')) AS wal_is_kept, \
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
        OR (backend_type IS NULL AND usesysid IS NOT NULL AND datid IS NOT NULL)) AS connected, \
    (current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer)::bigint \
        AS connections_max";

/// Transactions that are open for longer than `$1` seconds: their number, the names of the oldest `$2`, and the number
/// of sessions that this login may not see.
const OPEN: &str = "WITH open AS ( \
        SELECT xact_start AS since, format('process %s of %s (%s)', pid, usename, state) AS name FROM pg_stat_activity \
        WHERE backend_type = 'client backend' AND xact_start IS NOT NULL \
        UNION ALL SELECT prepared, format('prepared transaction %L of %s', gid, owner) FROM pg_prepared_xacts \
    ), long AS (SELECT * FROM open WHERE since < now() - make_interval(secs => $1) ORDER BY since) \
    SELECT (SELECT count(*) FROM long) AS long, \
           (SELECT string_agg(name, ', ') FROM (SELECT name FROM long LIMIT $2) AS named) AS names, \
           (SELECT count(*) FROM pg_stat_activity WHERE query = '<insufficient privilege>') AS hidden";

#[derive(FromRow)]
#[expect(clippy::struct_excessive_bools, reason = "columns of a row")]
struct Settings {
    version_number: i32,
    version: String,
    standby: bool,
    read_only: bool,
    fsync: String,
    full_page_writes: String,
    synchronous_commit: String,
    standby_names: String,
    standby_is_there: bool,
    autovacuum: String,
    min_wal_size: String,
    max_wal_size: String,
    wal_is_kept: bool,
    connected: i64,
    connections_max: i64,
}

pub(super) async fn examine(config: &Config, open_max: Duration) -> anyhow::Result<Vec<Finding>> {
    let mut connection = timeout(CONNECT_TIMEOUT, connections::database(config)?.connect()).await??;
    let settings: Settings =
        sqlx::query_as(SETTINGS).fetch_one(&mut connection).await.context("read the settings")?;
    let mut findings = of_settings(&settings, config.shards);
    let schema = schema(&mut connection, config).await;
    // Only this schema is sure to have the tokens.
    let fits = schema.health == Health::Ok;
    findings.push(schema);
    if fits {
        findings.extend(tokens::examine(&mut connection).await);
    }
    findings.push(transactions(&mut connection, open_max).await?);
    let time = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut connection);
    findings.push(clock::compare(POSTGRES, time).await.context("read the clock")?);
    Ok(findings)
}

fn of_settings(settings: &Settings, shards: i16) -> Vec<Finding> {
    let of = |check: &str, found: &str| Finding::of(POSTGRES, check, found);
    let lost = |what: &str| format!("A power cut may lose coupons that users were promised: {what}");
    let role = match (settings.standby, settings.read_only) {
        (true, _) => "standby",
        (false, true) => "primary, read-only",
        (false, false) => "primary",
    };
    let needed = i64::from(POOL_CONNECTIONS + MONITOR_CONNECTIONS)
        + i64::from(CONNECTIONS_OF_SHARD) * i64::from(shards);
    let free = settings.connections_max - settings.connected;
    let connections = format!("{} of {} are taken", settings.connected, settings.connections_max);
    let wal = format!("{} of {}", settings.min_wal_size, settings.max_wal_size);
    vec![
        of("version", &settings.version)
            .bad_unless(settings.version_number >= OLDEST, "It is no longer maintained. Use 14 or newer."),
        of("role", role).bad_unless(
            role == "primary",
            "It takes no writes, so every claim is refused. Let DATABASE_URL name the primary, and set \
             default_transaction_read_only = off.",
        ),
        of("fsync", &settings.fsync)
            .bad_unless(settings.fsync == "on", lost("nothing is forced to disk. Set fsync = on in postgresql.conf.")),
        of("full_page_writes", &settings.full_page_writes).bad_unless(
            settings.full_page_writes == "on",
            lost("pages may be torn. Set full_page_writes = on in postgresql.conf."),
        ),
        of("synchronous_commit", &settings.synchronous_commit).bad_unless(
            ["on", "remote_apply"].contains(&&*settings.synchronous_commit),
            lost("commits do not wait for the disk, although every session of this program asks for it. Check whether a \
                  pooler in between ignores startup options (pgbouncer: ignore_startup_parameters)."),
        ),
        of("synchronous_standby_names", if settings.standby_names.is_empty() { "none" } else { &settings.standby_names })
            .bad_unless(
                settings.standby_names.is_empty() || settings.standby_is_there,
                "No synchronous standby is connected, so no commit ends and every claim is refused. Start the standby, or \
                 take it out of synchronous_standby_names. (A login without pg_read_all_stats sees no standby.)",
            ),
        of("autovacuum", &settings.autovacuum).bad_unless(
            settings.autovacuum == "on",
            "Statistics grow stale and transaction ids run out. Set autovacuum = on in postgresql.conf.",
        ),
        of("connections", &connections).warn_unless(
            free >= needed,
            format!("Another process needs up to {needed}. Claims are refused while a writer has no connection. Raise \
                     max_connections."),
        ),
        of("min_wal_size of max_wal_size", &wal).warn_unless(
            settings.wal_is_kept,
            "Under load Postgres creates WAL files, and commits wait for that (about 50 ms). Set min_wal_size as large as \
             max_wal_size, and write that much before the event.",
        ),
    ]
}

async fn schema(connection: &mut PgConnection, config: &Config) -> Finding {
    const CHECK: &str = "schema";
    match schema::check(connection, config.shards, config.deployment).await {
        Ok(_) => Finding::of(POSTGRES, CHECK, "fits this program"),
        Err(SchemaError::Database(error)) => {
            Finding::unknown(POSTGRES, CHECK, error.to_string(), "Use a login that may read the tables.")
        }
        Err(error @ SchemaError::Dropped { .. }) => Finding::of(POSTGRES, CHECK, error.to_string())
            .bad_unless(
                false,
                "No process of this version starts on it. Use the version that migrated it, or a later one.",
            ),
        Err(SchemaError::Deployment(error)) => Finding::of(POSTGRES, CHECK, "of another deployment")
            .bad_unless(false, format!("No process of this configuration starts on it: {error}.")),
        Err(error) => Finding::of(POSTGRES, CHECK, error.to_string()).bad_unless(
            false,
            "No process starts on it. Run `coupon migrate` with the SHARDS of the first migration.",
        ),
    }
}

async fn transactions(connection: &mut PgConnection, open_max: Duration) -> anyhow::Result<Finding> {
    const CHECK: &str = "long transactions";
    let open: (i64, Option<String>, i64) = sqlx::query_as(OPEN)
        .bind(open_max.as_secs_f64())
        .bind(NAMED_MAX)
        .fetch_one(connection)
        .await
        .context("read the transactions")?;
    let (long, names, hidden) = open;
    if long == 0 && hidden > 0 {
        let found = format!("{hidden} sessions are hidden");
        return Ok(Finding::unknown(POSTGRES, CHECK, found, "Use a login that has pg_read_all_stats."));
    }
    let names = names.map(|names| format!(": {names}")).unwrap_or_default();
    let found = format!("{long} open for more than {} s{names}", open_max.as_secs());
    Ok(Finding::of(POSTGRES, CHECK, found).warn_unless(
        long == 0,
        "While they are open, vacuum removes no row that was deleted after they began. End them with \
         pg_terminate_backend() or ROLLBACK PREPARED.",
    ))
}
