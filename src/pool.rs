//! Connections to Postgres for reads and rare writes.
//!
//! Every wait has a limit, also on a connection whose other end has died without a word: 2 s for a free connection, and
//! `in_time` for each statement. Statements go through [`prepared!`](crate::storage). A connection on which a statement
//! failed or was given up is used again only after Postgres has answered on it, or else it is closed.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use deadpool::managed::{
    self, BuildError, Manager, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult,
};
use outbox_relay::in_time::InTime as _;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::timeout;

/// How long a caller waits for a free connection: shorter than a client waits for an answer.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// For one statement at the server, which then reports an error: shorter than `in_time`.
const SERVER_TIMEOUT: &str = "4s";
/// A connection that was idle for longer is used only after Postgres has answered a ping on it.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// For that answer.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether the transactions of a session are read-only, by a default that it took over when it began, or because the
/// server is a standby.
const IS_READ_ONLY: &str = "SELECT current_setting('transaction_read_only')::bool OR pg_is_in_recovery()";

/// A connection that is taken from the pool. When it is dropped, it goes back.
pub type Lease = Object<Connector>;

/// Connections that are shared: cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Pool(managed::Pool<Connector>);

impl Pool {
    /// At most `connections` connections, each made when it is first needed.
    ///
    /// # Errors
    /// None with the settings here: `deadpool` refuses a pool with timeouts of its own and without a runtime.
    pub fn new(database: &PgConnectOptions, connections: u16) -> Result<Self, BuildError> {
        let database = database.clone().options([("statement_timeout", SERVER_TIMEOUT)]);
        let pool = managed::Pool::builder(Connector(database))
            .max_size(connections.into())
            .queue_mode(QueueMode::Lifo) // what is idle stays idle
            .build();
        pool.map(Self)
    }

    /// A connection, for one statement or several, such as a transaction. The caller limits each of them.
    ///
    /// # Errors
    /// When no connection is free in time, or none can be made.
    pub async fn acquire(&self) -> Result<Lease, sqlx::Error> {
        let lease = timeout(ACQUIRE_TIMEOUT, self.0.get()).await.map_err(|_| sqlx::Error::PoolTimedOut)?;
        let mut lease = lease.map_err(|error| match error {
            PoolError::Backend(error) => error,
            _ => sqlx::Error::PoolClosed,
        })?;
        lease.is_at_rest = false;
        Ok(lease)
    }

    /// Closes the connections that are idle. No new one can be acquired.
    pub fn close(&self) {
        self.0.close();
    }
}

/// A session at Postgres.
#[derive(Debug)]
pub struct Session {
    connection: PgConnection,
    /// Every statement on it was answered, and none failed.
    is_at_rest: bool,
}

impl Session {
    /// The last statement was answered, and none failed: the next user can begin at once.
    pub(crate) fn rest(&mut self) {
        self.is_at_rest = true;
    }
}

impl Deref for Session {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// Makes the connections of a [`Pool`].
#[derive(Debug)]
pub struct Connector(PgConnectOptions);

impl Manager for Connector {
    type Type = Session;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<Session, sqlx::Error> {
        Ok(Session { connection: self.0.connect().in_time().await?, is_at_rest: true })
    }

    /// A connection that is not at rest forgets what it has prepared, which the schema may no longer fit. It is closed
    /// after an error, and if it writes nothing: a new one may, after a failover, or when an administrator has allowed
    /// writes again.
    async fn recycle(&self, session: &mut Session, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if !session.is_at_rest {
            let forgotten = session.connection.clear_cached_statements().within(PING_TIMEOUT).await;
            forgotten.map_err(RecycleError::Backend)?;
            let is_read_only = sqlx::query_scalar(IS_READ_ONLY).fetch_one(&mut session.connection);
            if is_read_only.within(PING_TIMEOUT).await.map_err(RecycleError::Backend)? {
                return Err(RecycleError::message("its transactions are read-only"));
            }
        } else if metrics.last_used() > TRUSTED_FOR {
            session.connection.ping().within(PING_TIMEOUT).await.map_err(RecycleError::Backend)?;
        }
        Ok(())
    }
}
