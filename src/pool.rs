//! Connections to Postgres for reads and rare writes.
//!
//! Every wait has a limit, also on a connection whose other end has died without a word: 2 s for a free connection, and
//! `in_time` for each statement. Statements go through [`prepared!`](crate::storage). A connection on which a statement
//! failed or was given up is closed: Postgres then ends its transaction and gives back the locks at once. A new one may also
//! be better: after a failover, or when the schema has changed.

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
/// After this time without a statement the server ends a transaction, and gives back its locks: its process stands still or
/// is gone, and others wait for the shard. Longer than any wait between two statements here.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "3s";
/// A connection that was idle for longer is used only after Postgres has answered a ping on it.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// For that answer.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection that is taken from the pool. When it is dropped it goes back if it is at rest, and is closed if not.
#[derive(Debug)]
pub struct Lease {
    // In this order: a connection that is not at rest goes back, and is closed there.
    object: Object<Connector>,
    closer: Closer,
}

/// Closes what is not at rest.
#[derive(Debug)]
struct Closer {
    pool: managed::Pool<Connector>,
    is_at_rest: bool,
}

/// Connections that are shared: cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Pool(managed::Pool<Connector>);

impl Pool {
    /// At most `connections` connections, each made when it is first needed.
    ///
    /// # Errors
    /// None with the settings here: `deadpool` refuses a pool with timeouts of its own and without a runtime.
    pub fn new(database: &PgConnectOptions, connections: u16) -> Result<Self, BuildError> {
        let database = database.clone().options([
            ("statement_timeout", SERVER_TIMEOUT),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
        ]);
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
        Ok(Lease { object: lease, closer: Closer { pool: self.0.clone(), is_at_rest: false } })
    }

    /// Closes the connections that are idle: one was found to be dead, and the others may be. The next is a new one.
    pub(crate) fn close_idle(&self) {
        self.0.retain(|_, _| false);
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

impl Lease {
    /// The last statement was answered, and none failed: the next user can begin at once.
    pub(crate) fn rest(&mut self) {
        self.object.is_at_rest = true;
        self.closer.is_at_rest = true;
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.object.connection
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.object.connection
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        if !self.is_at_rest {
            self.pool.retain(|session, _| session.is_at_rest);
        }
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

    async fn recycle(&self, session: &mut Session, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if metrics.last_used() > TRUSTED_FOR {
            session.connection.ping().within(PING_TIMEOUT).await.map_err(RecycleError::Backend)?;
        }
        Ok(())
    }
}
