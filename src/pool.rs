//! Connections to Postgres for reads and rare writes.
//!
//! Every wait has a limit, also on a connection whose other end has died without a word: 2 s for a
//! free connection, and 6 s for each statement that is given to the pool. A connection that exceeds
//! it is closed. One on which a statement was given up is used again only after Postgres has answered on it.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use deadpool::managed::{self, Manager, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use outbox_relay::in_time::InTime as _;
use sqlx::postgres::{PgConnectOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{
    ConnectOptions as _, Connection as _, Describe, Either, Execute, Executor, PgConnection, Postgres,
};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How long a caller waits for a free connection: shorter than a client waits for an answer.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// For one statement at the server, which then reports an error.
const SERVER_TIMEOUT: &str = "5s";
/// For one statement here, when the server reports nothing.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(6);
/// A connection that was idle for longer is used only after Postgres has answered a ping on it.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// For that answer.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// Connections that are shared: cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Pool(managed::Pool<Connector>);

impl Pool {
    /// At most `connections` connections, each made when it is first needed.
    #[must_use]
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "it fails for a wrong configuration alone"
    )]
    pub fn new(database: &PgConnectOptions, connections: u16) -> Self {
        let database = database.clone().options([("statement_timeout", SERVER_TIMEOUT)]);
        let pool = managed::Pool::builder(Connector(database))
            .max_size(connections.into())
            .queue_mode(QueueMode::Lifo) // what is idle stays idle
            .build();
        Self(pool.expect("a pool without timeouts of its own needs no runtime"))
    }

    /// A connection for several statements, such as a transaction. The caller limits each of them.
    ///
    /// # Errors
    /// When no connection is free in time, or none can be made.
    pub async fn acquire(&self) -> Result<Lease, sqlx::Error> {
        let object = timeout(ACQUIRE_TIMEOUT, self.0.get()).await.map_err(|_| sqlx::Error::PoolTimedOut)?;
        let object = object.map_err(|error| match error {
            PoolError::Backend(error) => error,
            _ => sqlx::Error::PoolClosed,
        })?;
        Ok(Lease(Some(object)))
    }

    /// Closes the connections that are idle. No new one can be acquired.
    pub fn close(&self) {
        self.0.close();
    }
}

/// A connection that is taken from the pool. When it is dropped, it forgets what it has prepared, which the schema may no
/// longer fit, and goes back once Postgres has answered; if Postgres does not, it is closed. So nobody meets a statement
/// that was given up or is stale.
#[derive(Debug)]
pub struct Lease(Option<Object<Connector>>);

impl Lease {
    /// Gives the connection back at once: every statement on it was answered.
    pub(crate) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    #[expect(clippy::expect_used, reason = "only `give_back` and `drop` take it, and both end the lease")]
    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("a lease holds its connection")
    }
}

impl DerefMut for Lease {
    #[expect(clippy::expect_used, reason = "only `give_back` and `drop` take it, and both end the lease")]
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("a lease holds its connection")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut object) = self.0.take() else { return };
        let Ok(runtime) = Handle::try_current() else {
            drop(Object::take(object));
            return;
        };
        runtime.spawn(async move {
            if object.clear_cached_statements().within(PING_TIMEOUT).await.is_err() {
                drop(Object::take(object));
            }
        });
    }
}

/// Makes the connections of a [`Pool`].
#[derive(Debug)]
struct Connector(PgConnectOptions);

impl Manager for Connector {
    type Type = PgConnection;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<PgConnection, sqlx::Error> {
        self.0.connect().in_time().await
    }

    async fn recycle(&self, connection: &mut PgConnection, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if metrics.last_used() > TRUSTED_FOR {
            connection.ping().within(PING_TIMEOUT).await.map_err(RecycleError::Backend)?;
        }
        Ok(())
    }
}

/// One statement on a connection of the pool, within 6 s.
impl<'c> Executor<'c> for &'c Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let rows = async move {
            let mut lease = self.acquire().await?;
            let rows: Vec<_> = lease.fetch_many(query).try_collect().within(STATEMENT_TIMEOUT).await?;
            lease.give_back();
            Ok::<_, sqlx::Error>(stream::iter(rows).map(Ok))
        };
        stream::once(rows).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let mut lease = self.acquire().await?;
            let row = lease.fetch_optional(query).within(STATEMENT_TIMEOUT).await?;
            lease.give_back();
            Ok(row)
        })
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        sql: &'q str,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement<'q>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let mut lease = self.acquire().await?;
            let statement = lease.prepare_with(sql, parameters).within(STATEMENT_TIMEOUT).await?;
            lease.give_back();
            Ok(statement)
        })
    }

    fn describe<'e, 'q: 'e>(self, sql: &'q str) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let mut lease = self.acquire().await?;
            let description = lease.describe(sql).within(STATEMENT_TIMEOUT).await?;
            lease.give_back();
            Ok(description)
        })
    }
}
