//! A world for each test: private servers, a migrated schema, processes of the real binary.

pub(crate) mod asyncapi;
mod campaigns;
mod clock;
mod cluster;
mod command;
pub(crate) mod contract;
mod events;
pub(crate) mod fault;
mod http;
mod mutation;
mod nats;
mod newest;
mod process;
mod proxy;
mod seed;
mod socket;
pub(crate) mod subscriber;
mod template;
mod terminal;
mod wait;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::ServerAddr;
use coupon_dispatcher::audit::{Scope, Sheet, audit};
use coupon_dispatcher::config::{Config, FIRST_DEPLOYMENT};
use coupon_dispatcher::connections::{Connections, Patience, nats_options};
use coupon_dispatcher::schema;
use coupon_dispatcher::servers::{self, Servers};
use redis::AsyncConnectionConfig;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::sync::{Semaphore, SemaphorePermit};
use ulid::Ulid;
use uuid::Uuid;

pub(crate) use campaigns::{draft, in_seconds};
pub(crate) use clock::Clock;
pub(crate) use cluster::{RedisCluster, TlsFiles};
pub(crate) use command::{Finished, Running, coupon, coupon_fed, start as start_command};
pub(crate) use fault::{Fault, owns};
pub(crate) use http::{Answer, Http};
pub(crate) use mutation::mutated;
pub(crate) use nats::Nats;
pub(crate) use newest::{newest_nats_server, packaged_nats_server, python};
pub(crate) use process::Process;
pub(crate) use proxy::{Hop, Line, Proxy};
pub(crate) use seed::seeded;
pub(crate) use socket::Socket;
pub(crate) use terminal::Terminal;
pub(crate) use wait::{wait_for, wait_until};

/// A port that nobody else of the tests gets, also while nobody listens there.
pub(crate) fn free_port() -> u16 {
    servers::free_port().unwrap()
}

pub(crate) const TOKEN: &str = "a-token-for-tests-only";
/// For anything that is to happen by itself.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// For everything to be published and projected.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);
/// Worlds at a time, whatever the number of threads: each runs four servers or more.
const WORLDS_MAX: usize = 4;
static PLACES: Semaphore = Semaphore::const_new(WORLDS_MAX);

/// All that a test works on. It has to be closed, which checks the balance.
pub(crate) struct World {
    // Dropped before their servers.
    pub(crate) processes: Vec<Process>,
    pub(crate) pool: PgPool,
    pub(crate) servers: Servers,
    shards: i16,
    replicas: usize,
    /// In place of those of `servers`, or beside them.
    variables: Vec<(&'static str, String)>,
    /// The name of its deployment.
    pub(crate) deployment: &'static str,
    promised: Mutex<HashSet<Ulid>>,
    closed: bool,
    _place: SemaphorePermit<'static>,
}

impl World {
    /// One process with all roles.
    pub(crate) async fn start() -> Self {
        Self::with_processes(&[""]).await
    }

    /// A process for each of these lists of roles; an empty one means all.
    pub(crate) async fn with_processes(roles: &[&str]) -> Self {
        let mut world = Self::bare(1).await;
        world.migrate().await;
        for roles in roles {
            world.add_process(roles).await;
        }
        world
    }

    /// Servers alone: no schema yet, no process.
    pub(crate) async fn bare(shards: i16) -> Self {
        let place = PLACES.acquire().await.unwrap();
        let servers = Servers::start_from(template::path().await).await.unwrap();
        let pool = PgPoolOptions::new().max_connections(4).connect_lazy(&servers.database_url()).unwrap();
        Self {
            processes: Vec::new(),
            pool,
            servers,
            shards,
            replicas: 1,
            variables: Vec::new(),
            deployment: FIRST_DEPLOYMENT,
            promised: Mutex::default(),
            closed: false,
            _place: place,
        }
    }

    pub(crate) async fn migrate(&self) {
        let mut connection = PgConnection::connect(&self.servers.database_url()).await.unwrap();
        let deployment = self.deployment.parse().unwrap();
        schema::migrate(&mut connection, self.shards, deployment).await.unwrap();
        #[cfg(feature = "zoo")]
        crate::zoo::plant(&self.pool).await;
    }

    /// Adds a process, and waits until it serves. Its index in `processes` is answered.
    pub(crate) async fn add_process(&mut self, roles: &str) -> usize {
        let process = self.process(roles);
        self.processes.push(process);
        let index = self.processes.len() - 1;
        self.processes[index].start().await;
        index
    }

    /// A process that is not started, with the environment of this world.
    pub(crate) fn process(&self, roles: &str) -> Process {
        Process::new(self.folder(), self.processes.len(), roles, self.environment())
    }

    /// Another program beside the servers, which ends with them. It is not started.
    pub(crate) fn program(&self, name: &str, command: &[&str]) -> Process {
        let command = command.iter().map(ToString::to_string).collect();
        Process::of(self.folder(), name.to_owned(), command, Vec::new())
    }

    /// The folder of the servers, which goes with them.
    pub(crate) fn folder(&self) -> &Path {
        self.servers.postgres.dir().parent().unwrap()
    }

    /// What a process has to know.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("DATABASE_URL", self.servers.database_url()),
            ("REDIS_URL", self.servers.redis_url()),
            ("NATS_URL", self.servers.nats_url()),
            ("ADMIN_TOKEN", TOKEN.to_owned()),
            ("SHARDS", self.shards.to_string()),
            ("DEPLOYMENT", self.deployment.to_owned()),
            ("NATS_REPLICAS", self.replicas.to_string()),
            ("RUST_LOG", "info".to_owned()),
            #[cfg(feature = "zoo")]
            ("BUG", std::env::var("BUG").unwrap_or_default()),
        ];
        environment.retain(|(name, _)| self.variable(name).is_none());
        environment.extend(self.variables.iter().cloned());
        environment
    }

    /// From now on processes, commands and this world find a server in another way.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.into()));
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }

    /// Runs `coupon` to its end, with the environment of this world and the API of its first process.
    pub(crate) async fn coupon(&self, arguments: &[&str]) -> Finished {
        self.coupon_with(arguments, &[]).await
    }

    /// The same with further variables.
    pub(crate) async fn coupon_with(&self, arguments: &[&str], more: &[(&'static str, String)]) -> Finished {
        command::start(arguments, &[&self.command_environment(), more].concat()).finished().await
    }

    /// Starts `coupon` in the same way, and does not wait.
    pub(crate) fn start_coupon(&self, arguments: &[&str]) -> Running {
        command::start(arguments, &self.command_environment())
    }

    /// Starts `coupon` in the same way at a terminal.
    pub(crate) fn at_terminal(&self, arguments: &[&str]) -> Terminal {
        Terminal::start(arguments, &self.command_environment())
    }

    pub(crate) fn command_environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = self.environment();
        let api = self.processes.iter().find(|process| process.serves());
        environment.extend(api.map(|process| ("HTTP_ADDR", process.address.to_string())));
        environment
    }

    /// The API of the first process that has it.
    pub(crate) fn api(&self) -> Http {
        self.processes.iter().find(|process| process.serves()).unwrap().http()
    }

    pub(crate) async fn redis(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.servers.redis_url()).unwrap();
        // The machine may be busy: by default an answer is waited for half a second.
        let patient =
            AsyncConnectionConfig::new().set_connection_timeout(Some(SOON)).set_response_timeout(Some(SOON));
        client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
    }

    pub(crate) async fn nats(&self) -> async_nats::Client {
        let urls = self.variable("NATS_URL").map_or_else(|| self.servers.nats_url(), str::to_owned);
        let mut options = nats_options(&urls);
        if let Some(file) = self.variable("NATS_CREDENTIALS") {
            options = options.credentials_file(file).await.unwrap();
        }
        if let Some(file) = self.variable("NATS_CA") {
            options = options.add_root_certificates(file.into());
        }
        let servers: Vec<ServerAddr> = urls.split(',').map(|url| url.parse().unwrap()).collect();
        options.connect(servers).await.unwrap()
    }

    /// What [`audit`] works on.
    pub(crate) async fn connections(&self) -> anyhow::Result<Connections> {
        let environment = self.environment();
        let config = Config::read(|name| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        })?;
        Connections::open(&config, Patience::None).await
    }

    pub(crate) async fn sheet(&self) -> anyhow::Result<Sheet> {
        let connections = self.connections().await?;
        audit(&connections, self.shards, Scope { full: true, ..Scope::default() }).await
    }

    /// These coupons were promised to somebody: they have to be there in the end.
    pub(crate) fn promised(&self, coupons: impl IntoIterator<Item = Ulid>) {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner).extend(coupons);
    }

    /// Everything is published and projected, everything agrees, and every promise was kept.
    pub(crate) async fn close(mut self) {
        self.balanced().await;
        let promised: Vec<Uuid> = {
            let promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
            promised.iter().map(|id| Uuid::from(*id)).collect()
        };
        let missing: Vec<Uuid> = sqlx::query_scalar(
            "SELECT id FROM unnest($1::uuid[]) AS promised (id) \
             WHERE NOT EXISTS (SELECT FROM coupons WHERE coupons.id = promised.id)",
        )
        .bind(promised)
        .fetch_all(&self.pool)
        .await
        .unwrap();
        assert!(missing.is_empty(), "promised and not there: {missing:?}");
        self.closed = true;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in &self.processes {
                eprintln!("--- {}:\n{}", process.name, process.log());
            }
        } else {
            assert!(self.closed, "a world has to be closed, which checks the balance");
        }
    }
}
