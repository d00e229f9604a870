//! What an audit reads from: its connections to the three servers.

use std::fmt::Display;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::ProgressBar;
use outbox_relay::in_time::{InTime as _, SCAN_TIMEOUT};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgTransaction};

use crate::connections::Connections;
use crate::gate::redis::Seats;

/// For one answer of Redis. The largest question is for a thousand seats and takes milliseconds.
const GATE_TIMEOUT: Duration = Duration::from_secs(5);
/// For one statement. Counting ten million rows takes minutes; everything else is read in batches.
const AUDIT_STATEMENT_TIMEOUT: &str = "10min";
/// Begins a transaction whose statements see one snapshot.
pub(super) const REPEATABLE_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// The servers, as one audit asks them.
pub(super) struct Sources {
    pub(super) connections: Connections,
    /// Apart from the pool, whose connections are for short statements.
    pub(super) connection: PgConnection,
    pub(super) gates: Seats,
    pub(super) shards: i16,
    /// Events and seats that are compared.
    pub(super) bar: ProgressBar,
    /// Shards and campaigns that could not be audited, each with the reason.
    pub(super) failures: Vec<anyhow::Error>,
}

impl Sources {
    /// Connects to Redis; NATS is connected already, and so is `connection`.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub(super) async fn new(
        connections: &Connections,
        connection: PgConnection,
        shards: i16,
        bar: ProgressBar,
    ) -> anyhow::Result<Self> {
        let redis = &connections.redis;
        let gates = Seats::connect(redis, GATE_TIMEOUT)
            .await
            .with_context(|| format!("Redis at {redis} cannot be reached"))?;
        let connections = connections.clone();
        Ok(Self { connections, connection, gates, shards, bar, failures: Vec::new() })
    }

    /// Notes that a shard or campaign could not be audited. The others still are.
    pub(super) fn fail(&mut self, what: impl Display, error: impl Into<anyhow::Error>) {
        self.failures.push(error.into().context(what.to_string()));
    }
}

/// A connection with the settings of an audit.
pub(super) async fn connect(database: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    database
        .clone()
        .options([("statement_timeout", AUDIT_STATEMENT_TIMEOUT)])
        .connect()
        .within(SCAN_TIMEOUT)
        .await
}

/// One snapshot, for statements that read all rows of a table.
pub(super) async fn snapshot(connection: &mut PgConnection) -> Result<PgTransaction<'_>, sqlx::Error> {
    let mut snapshot = connection.begin_with(REPEATABLE_READ).within(SCAN_TIMEOUT).await?;
    sqlx::query("SET LOCAL enable_seqscan = on").execute(&mut *snapshot).within(SCAN_TIMEOUT).await?;
    Ok(snapshot)
}
