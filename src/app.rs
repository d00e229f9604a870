//! Connects once, and runs the roles that a process is to play.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use outbox_relay::retry::Retry;
use outbox_relay::{Projection, Projector, Relay, Shard};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgPool};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Role, ServerUrl, login};
use crate::event::OUTLET;
use crate::http::{Api, router, server};
use crate::issue::gate::Gate;
use crate::issue::loader::Loader;
use crate::issue::writer::WriterWorker;
use crate::issue::{Issuer, seats, sweeper};
use crate::schema::{self, SchemaError};
use crate::settlement::Settlement;
use crate::wallet::Wallet;

/// Connections for reading and for the rare writes; the hot path has its own.
const POOL_CONNECTIONS: u32 = 8;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of one statement of the pool.
const STATEMENT_TIMEOUT: &str = "5s";
/// For the writers to finish what they were given.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections to the three servers.
#[derive(Clone, Debug)]
pub struct Connections {
    pub database: PgConnectOptions,
    pub pool: PgPool,
    pub redis: redis::Client,
    pub nats: async_nats::Client,
}

impl Connections {
    /// Connects; a server that is away is waited for with `patience`, or else named in the error.
    ///
    /// # Errors
    /// When a server is away and there is no patience, or the schema does not fit.
    pub async fn open(config: &Config, patience: Patience) -> anyhow::Result<Self> {
        let database: PgConnectOptions = config.database.reveal().parse().context("read DATABASE_URL")?;
        let database = database.application_name("coupon").disable_statement_logging();
        let check = async || -> anyhow::Result<()> {
            let mut connection = timeout(CONNECT_TIMEOUT, database.connect()).await??;
            Ok(schema::check(&mut connection, config.shards).await?)
        };
        until_there("Postgres", &config.database, patience, check).await?;
        let pool = PgPoolOptions::new()
            .max_connections(POOL_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(database.clone().options([("statement_timeout", STATEMENT_TIMEOUT)]));
        let redis = seats::client(config.redis.reveal()).context("read REDIS_URL")?;
        let nats = connect_nats(config, patience).await?;
        Ok(Self { database, pool, redis, nats })
    }
}

/// Whether to wait for a server that is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    Endless,
    None,
}

async fn until_there(
    name: &str,
    url: &ServerUrl,
    patience: Patience,
    attempt: impl AsyncFn() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut retry = Retry::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match attempt().await {
            Ok(()) => return Ok(()),
            // No waiting helps against a wrong schema.
            Err(error)
                if error
                    .downcast_ref::<SchemaError>()
                    .is_some_and(|error| !matches!(error, SchemaError::Database(_))) =>
            {
                return Err(error);
            }
            Err(error) if patience == Patience::None => {
                return Err(error.context(format!("{name} at {url} cannot be reached")));
            }
            Err(error) => tracing::warn!("{name} at {url} cannot be reached, trying again: {error:#}"),
        }
        sleep(retry.next_wait()).await;
    }
}

/// How to connect to the NATS at `url`, with the login in it, which the client itself does not read.
#[must_use]
pub fn nats_options(url: &str) -> async_nats::ConnectOptions {
    let options = async_nats::ConnectOptions::new();
    match login(url) {
        Some((user, Some(password))) => options.user_and_password(user, password),
        Some((token, None)) => options.token(token),
        None => options,
    }
}

/// With patience, NATS may come later: the API does not need it.
async fn connect_nats(config: &Config, patience: Patience) -> anyhow::Result<async_nats::Client> {
    let url = config.nats.clone();
    let mut options = nats_options(config.nats.reveal())
        .name("coupon")
        .connection_timeout(CONNECT_TIMEOUT)
        .event_callback(move |event| {
            match event {
                async_nats::Event::Connected => tracing::info!("connected to NATS"),
                async_nats::Event::Closed => tracing::debug!("NATS closed"),
                other => tracing::warn!("NATS at {url}: {other}"),
            }
            std::future::ready(())
        });
    if patience == Patience::Endless {
        options = options.retry_on_initial_connect();
    }
    options
        .connect(config.nats.reveal())
        .await
        .with_context(|| format!("NATS at {} cannot be reached", config.nats))
}

/// Plays `roles` until `stop`, or until one of them ends; then brings the rest down in order.
///
/// # Errors
/// When a role ends by itself, or cannot start.
pub async fn serve(
    config: &Config,
    roles: &BTreeSet<Role>,
    listener: Option<TcpListener>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let connections = tokio::select! {
        connections = Connections::open(config, Patience::Endless) => connections?,
        () = stop.cancelled() => return Ok(()),
    };
    let wakes: Vec<Arc<Notify>> = (0..config.shards).map(|_| Arc::default()).collect();
    let mut background = JoinSet::new();
    let mut relays = Vec::new();
    for (shard, wake) in (0..config.shards).map(Shard).zip(&wakes) {
        let Connections { database, nats, .. } = connections.clone();
        if roles.contains(&Role::Relay) {
            let relay = Relay::new(OUTLET, shard, config.replicas, database, nats, wake.clone());
            relays.push(relay.status());
            background.spawn(async move { match relay.run().await {} });
        }
        if roles.contains(&Role::Project) {
            let Connections { database, nats, .. } = connections.clone();
            let projections: Vec<Box<dyn Projection>> = vec![Box::new(Wallet), Box::new(Settlement)];
            let projector =
                Projector::new("projections", projections, OUTLET, shard, config.replicas, database, nats);
            background.spawn(async move { match projector.run().await {} });
        }
    }
    let api = async {
        match listener {
            Some(listener) => {
                serve_api(config, &connections, relays.into(), wakes, listener, stop.clone()).await;
            }
            None => stop.cancelled().await,
        }
    };
    let result = tokio::select! {
        () = api => Ok(()),
        Some(ended) = background.join_next() => Err(anyhow::anyhow!("a role ended by itself: {ended:?}")),
    };
    stop.cancel();
    background.shutdown().await; // safe at any point
    drop(timeout(CONNECT_TIMEOUT, connections.nats.flush()).await);
    result
}

/// Serves HTTP until `stop`; then lets requests, writers and the gate finish, in this order.
async fn serve_api(
    config: &Config,
    connections: &Connections,
    relays: Arc<[tokio::sync::watch::Receiver<outbox_relay::RelayStatus>]>,
    wakes: Vec<Arc<Notify>>,
    listener: TcpListener,
    stop: CancellationToken,
) {
    let Connections { database, pool, redis, nats } = connections.clone();
    let mut workers = JoinSet::new();
    let (gate, gate_worker) = Gate::new(redis.clone());
    let (loader, loader_worker) = Loader::new(redis.clone(), pool.clone());
    workers.spawn(gate_worker.run());
    workers.spawn(loader_worker.run());
    let mut writers = Vec::new();
    for (shard, wake) in (0..config.shards).map(Shard).zip(wakes) {
        let (writer, worker) =
            WriterWorker::new(shard, config.batch_rows, &database, gate.clone(), loader.clone(), wake);
        writers.push(writer);
        workers.spawn(worker.run());
    }
    let issuer = Issuer::new(pool.clone(), gate, loader, writers);
    let admin_token = config.admin_token.clone();
    if admin_token.is_none() {
        tracing::warn!("there is no ADMIN_TOKEN: all of /v1 answers 401");
    }
    let api = Api { pool: pool.clone(), issuer, nats, admin_token, shards: config.shards, relays };
    if let Ok(address) = listener.local_addr() {
        tracing::info!("listening on http://{address}");
    }
    tokio::select! {
        () = server::serve(listener, router(Arc::new(api)), stop) => {}
        never = sweeper::run(redis, pool) => match never {},
    }
    // The routes are gone, and with them the last who could ask: the workers finish and end.
    if timeout(DRAIN_TIMEOUT, async { while workers.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!("claims in progress are cut off: their seats will be seen to after their lease");
    }
}
