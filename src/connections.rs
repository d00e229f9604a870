//! The connections to the three servers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::ServerAddr;
use outbox_relay::Outlet;
use outbox_relay::deployment::Deployment;
use outbox_relay::in_time::InTime as _;
use outbox_relay::outage::Outage;
use outbox_relay::reason::reason_of;
use outbox_relay::retry::Retry;
use outbox_relay::zoo;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::time::{sleep, timeout};

use crate::config::{Config, NATS_CA, ServerUrl, ServerUrls, login};
use crate::event::OUTLET;
use crate::gate::client::Client as Redis;
use crate::pool::Pool;
use crate::schema::{self, SchemaError};
use crate::storage::PLANS;
use crate::tls::{advised, explained};

/// Connections for reads and rare writes. Each writer has one of its own.
pub(crate) const POOL_CONNECTIONS: u16 = 8;
/// For readiness, metrics and API tokens, apart from the pool: a process without a free connection is busy, but not unready,
/// and knows of each revocation.
pub(crate) const MONITOR_CONNECTIONS: u16 = 4;
/// For one attempt to connect and to check the schema, and for the goodbye at the end.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one request to NATS. A cluster that elects a leader does not answer; a retry soon reaches the new leader.
const NATS_REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// The client closes a connection on which NATS leaves three pings in a row without an answer, and connects again: a
/// silent NATS is left after 6 s. The client's default is 60 s.
const NATS_PING_INTERVAL: Duration = Duration::from_secs(2);

/// A 201 promises a coupon that is on disk.
const DURABLE: (&str, &str) = ("synchronous_commit", "on");
/// What every session relies on, whatever the defaults of the server, the database and the login are. Parts that need
/// limits of their own set them on top. `default_transaction_read_only` is left alone: it is how an administrator keeps writers
/// away. The driver itself sets `DateStyle`, `TimeZone` and `client_encoding`.
const PINNED: [(&str, &str); 11] = [
    // A batch must see what was committed while it waited for the lock of its shard.
    ("default_transaction_isolation", "read\\ committed"),
    ("default_transaction_deferrable", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("array_nulls", "on"),
    ("bytea_output", "hex"),
    ("IntervalStyle", "postgres"),
];
/// The parameters of a `DATABASE_URL` that the driver knows (its `options/parse.rs`); it ignores any other.
const PARAMETERS: [&str; 19] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "options[",
];
/// Where the tables are, unless `DATABASE_URL` has a `search_path` of its own among its options.
const SCHEMA: (&str, &str) = ("search_path", "public");

/// Where the file of the certificate authority of Postgres is named, for messages.
pub(crate) const POSTGRES_CA: &str = "the parameter sslrootcert of DATABASE_URL";

/// Connections to the three servers.
#[derive(Clone, Debug)]
pub struct Connections {
    pub database: PgConnectOptions,
    pub pool: Pool,
    pub redis: Redis,
    pub nats: async_nats::Client,
    /// The names of streams, locks and consumers, with the deployment that the database belongs to.
    pub outlet: Outlet,
    /// What the parts of this process say together of an outage of Postgres.
    pub outage: Outage,
}

impl Connections {
    /// Connects. Waits for a server that is away, or fails and names it, by `patience`.
    ///
    /// # Errors
    /// When the schema does not fit; without patience also when a server cannot be reached, which the error names.
    pub async fn open(config: &Config, patience: Patience) -> anyhow::Result<Self> {
        for name in config.database.other_parameters(&PARAMETERS) {
            tracing::warn!("the parameter {name} of DATABASE_URL is not known and has no effect");
        }
        let database = database(config)?;
        let check = async || -> anyhow::Result<Deployment> {
            let checked = async {
                let mut connection = database.connect().await?;
                schema::check(&mut connection, config.shards, config.deployment).await
            };
            Ok(timeout(CONNECT_TIMEOUT, checked).await??)
        };
        let deployment = until_there("Postgres", &config.database, patience, check).await?;
        let pool = Pool::new(&database, POOL_CONNECTIONS)?;
        let redis = redis(config)?;
        let nats = connect_nats(config, patience).await?;
        let outlet = Outlet { deployment: Some(deployment), ..OUTLET };
        Ok(Self { database, pool, redis, nats, outlet, outage: Outage::default() })
    }

    /// Sends what is still buffered, and closes the sessions at servers that answer.
    pub async fn close(self) {
        self.pool.close();
        if timeout(CONNECT_TIMEOUT, self.nats.flush()).await.is_err() {
            tracing::debug!("NATS does not listen: its session is left open");
        }
    }
}

/// Where the gate is. Connects to nothing.
pub(crate) fn redis(config: &Config) -> anyhow::Result<Redis> {
    let redis = Redis::open(config.redis.reveal()).context("read REDIS_URL")?;
    match &config.redis_ca {
        Some(authorities) => redis.trusting(authorities.pem()).context("read REDIS_CA"),
        None => Ok(redis),
    }
}

/// A connection to Postgres for a command that needs no other server.
///
/// # Errors
/// When Postgres cannot be reached, which the error says of its address.
pub(crate) async fn connect_database(config: &Config) -> anyhow::Result<PgConnection> {
    let connected = database(config)?.connect().in_time().await;
    connected
        .map_err(|error| explained(error.into(), POSTGRES_CA))
        .with_context(|| format!("Postgres at {} cannot be reached", config.database))
}

/// The options of every session at Postgres.
pub(crate) fn database(config: &Config) -> anyhow::Result<PgConnectOptions> {
    let database: PgConnectOptions = config.database.reveal().parse().context("read DATABASE_URL")?;
    let has_schema = database.get_options().is_some_and(|options| options.contains("search_path"));
    Ok(database
        .application_name("coupon")
        .options(PINNED)
        .options(PLANS)
        .options((!has_schema).then_some(SCHEMA))
        .options((!zoo::has("not-durable")).then_some(DURABLE))
        .disable_statement_logging())
}

/// What to do about a server that cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Retry until it can.
    Endless,
    /// Return an error at once.
    None,
}

async fn until_there<T>(
    name: &str,
    url: &ServerUrl,
    patience: Patience,
    attempt: impl AsyncFn() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut retry = Retry::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut told = false;
    loop {
        match attempt().await {
            Ok(there) => {
                if told {
                    tracing::info!("{name} at {url} is there");
                }
                return Ok(there);
            }
            // Waiting does not mend a wrong schema.
            Err(error)
                if error
                    .downcast_ref::<SchemaError>()
                    .is_some_and(|error| !matches!(error, SchemaError::Database(_))) =>
            {
                return Err(error);
            }
            Err(error) if patience == Patience::None => {
                return Err(
                    explained(error, POSTGRES_CA).context(format!("{name} at {url} cannot be reached"))
                );
            }
            Err(error) => {
                let reason = advised(reason_of(error.as_ref()), POSTGRES_CA);
                if told {
                    tracing::debug!("{name} at {url} cannot be reached: {reason}");
                } else {
                    tracing::warn!("{name} at {url} cannot be reached, retrying: {reason}");
                }
                told = true;
            }
        }
        sleep(retry.next_wait()).await;
    }
}

/// The options of a connection to the NATS at `url`, with the login in the URL, which the client does not read itself.
#[must_use]
pub fn nats_options(url: &str) -> async_nats::ConnectOptions {
    let options = async_nats::ConnectOptions::new();
    match login(url) {
        Some((user, Some(password))) => options.user_and_password(user, password),
        Some((token, None)) => options.token(token),
        None => options,
    }
}

/// With endless patience it returns before NATS is there: the API does not need it.
pub(crate) async fn connect_nats(config: &Config, patience: Patience) -> anyhow::Result<async_nats::Client> {
    let mut options = nats_security(config)?
        .name("coupon")
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(NATS_REQUEST_TIMEOUT))
        .ping_interval(NATS_PING_INTERVAL)
        .event_callback(nats_events(config.nats.clone()));
    if patience == Patience::Endless {
        options = options.retry_on_initial_connect();
    }
    let servers: Vec<ServerAddr> =
        config.nats.reveal().map(str::parse).collect::<Result<_, _>>().context("read NATS_URL")?;
    let connected = options.connect(servers).await.map_err(|error| explained(error.into(), NATS_CA.name));
    connected.with_context(|| format!("NATS at {} cannot be reached", config.nats))
}

/// The login, and whom to trust. The client has one login for all servers.
fn nats_security(config: &Config) -> anyhow::Result<async_nats::ConnectOptions> {
    let with_login = config.nats.reveal().find(|url| login(url).is_some());
    let mut options = with_login.map_or_else(async_nats::ConnectOptions::new, nats_options);
    if let Some(credentials) = &config.nats_credentials {
        options = options.credentials(credentials.reveal()).context("read NATS_CREDENTIALS")?;
    }
    if let Some(authorities) = &config.nats_ca {
        options = options.add_root_certificates(authorities.path().to_owned()).require_tls(true);
    }
    Ok(options)
}

/// Logs what happens to the connection.
fn nats_events(
    urls: ServerUrls,
) -> impl Fn(async_nats::Event) -> std::future::Ready<()> + Send + Sync + 'static {
    use async_nats::Event;
    let is_away = AtomicBool::new(false);
    move |event| {
        match event {
            Event::Connected if is_away.swap(false, Ordering::Relaxed) => {
                tracing::info!("connected to NATS at {urls} again");
            }
            Event::Connected => tracing::info!("connected to NATS"),
            Event::Closed => tracing::debug!("NATS closed"),
            // Each further attempt to connect fails: one line says it for all.
            Event::Disconnected | Event::ClientError(_) if is_away.swap(true, Ordering::Relaxed) => {
                tracing::debug!("NATS at {urls}: {event}");
            }
            other => tracing::warn!("NATS at {urls}: {}", advised(other.to_string(), NATS_CA.name)),
        }
        std::future::ready(())
    }
}
