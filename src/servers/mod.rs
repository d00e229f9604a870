//! Private Postgres, Redis and NATS: children of this process, on free loopback ports, with their
//! data in one temporary folder.
//!
//! They are as durable as in operation: Postgres syncs every commit, Redis syncs its append-only
//! file once a second, `JetStream` keeps its streams in files.
//!
//! Nothing outlives its owner. A guard (a shell in its own process group) makes the folder and then
//! reads a pipe of which only this process holds the other end. However this process ends, that
//! read returns; the guard then ends every server noted in the folder and removes the folder. No
//! server runs before it is noted: its shell waits for a word, or finds its own pipe closed.

mod answer;
mod data;
mod guard;
mod kind;
mod server;

use std::path::Path;
use std::{fs, io, time::Duration};

use data::copy;
use guard::Guard;
use kind::{Kind, find_programs};
pub use server::{Server, Setup};

/// Limit for a server to answer after its start, recovery included.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    #[error("cannot find {programs}: `apt-get install {packages}`, or set the variables in brackets")]
    Missing { programs: String, packages: String },
    #[error("{program} ended early; its last words:\n{log}")]
    Ended { program: &'static str, log: String },
    #[error("{program} did not answer within {ANSWER_TIME_MAX:?}; its last words:\n{log}")]
    Silent { program: &'static str, log: String },
    #[error("cannot prepare {what}")]
    Io { what: &'static str, source: io::Error },
}

/// Makes a Postgres data folder for [`Servers::start_from`] at `template`, which must not exist.
/// It appears whole or not at all; the caller removes it.
pub async fn init_template(template: &Path) -> Result<(), ServersError> {
    let [postgres, ..] = find_programs()?;
    let guard = Guard::start()?;
    let postgres = Server::at_rest(Kind::Postgres, postgres, &guard.folder)?;
    postgres.fill(None).await?;
    let unfinished = template.with_extension(std::process::id().to_string());
    copy(postgres.dir(), &unfinished).await?;
    fs::rename(&unfinished, template)
        .inspect_err(|_| drop(fs::remove_dir_all(&unfinished)))
        .map_err(cannot_prepare("the template"))
}

/// Three running servers. Drop ends them and removes their folder before it returns.
#[derive(Debug)]
pub struct Servers {
    // Dropped first: it ends the servers in order; then each of them reaps its child.
    _guard: Guard,
    pub postgres: Server,
    pub redis: Server,
    pub nats: Server,
}

impl Servers {
    /// Starts all three with empty data, and returns when all three answer.
    pub async fn start() -> Result<Self, ServersError> {
        Self::start_with(None).await
    }

    /// As [`Servers::start`], with a copy of what [`init_template`] made: faster.
    pub async fn start_from(template: &Path) -> Result<Self, ServersError> {
        Self::start_with(Some(template)).await
    }

    async fn start_with(template: Option<&Path>) -> Result<Self, ServersError> {
        let [postgres, redis, nats] = find_programs()?;
        let guard = Guard::start()?;
        let mut servers = Self {
            postgres: Server::at_rest(Kind::Postgres, postgres, &guard.folder)?,
            redis: Server::at_rest(Kind::Redis, redis, &guard.folder)?,
            nats: Server::at_rest(Kind::Nats, nats, &guard.folder)?,
            _guard: guard,
        };
        let postgres = async {
            servers.postgres.fill(template).await?;
            servers.postgres.start_on_free_port().await
        };
        let redis = servers.redis.start_on_free_port();
        let nats = servers.nats.start_on_free_port();
        tokio::try_join!(postgres, redis, nats)?;
        Ok(servers)
    }

    /// The database `coupon` as the role `coupon`, a superuser.
    #[must_use]
    pub fn database_url(&self) -> String {
        format!("postgres://coupon@127.0.0.1:{}/coupon", self.postgres.port())
    }

    /// Redis, database 0.
    #[must_use]
    pub fn redis_url(&self) -> String {
        format!("redis://{}", self.redis.authority())
    }

    /// NATS with `JetStream`.
    #[must_use]
    pub fn nats_url(&self) -> String {
        format!("nats://{}", self.nats.authority())
    }
}

fn cannot_prepare(what: &'static str) -> impl FnOnce(io::Error) -> ServersError {
    move |source| ServersError::Io { what, source }
}
