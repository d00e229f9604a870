//! Private Postgres, Redis and NATS for the demo and the tests: children of this process, on free loopback ports, with
//! their data in one folder, which is temporary unless the caller names one.
//!
//! They are as durable as in production: Postgres syncs every commit, Redis syncs its append-only file once a second,
//! and `JetStream` keeps its streams in files.
//!
//! No server outlives this process. A guard (a shell in its own process group) creates the folder, then reads a pipe of
//! which this process alone holds the other end. However this process ends, the read returns; the guard then ends every
//! server that is noted in the folder, and removes the folder. No server runs before it is noted: its shell waits for a
//! line on its own pipe, and ends when that is closed.

mod answer;
mod data;
mod error;
mod guard;
mod kind;
mod process;
mod server;

use std::fs;
use std::path::{Path, PathBuf};

use data::copy;
pub use error::ServersError;
use error::cannot_prepare;
use guard::Guard;
use kind::{Kind, find_programs};
pub use server::{Server, Setup, free_port};

/// Creates a Postgres data folder for [`Servers::start_from`] at `template`, which must not exist. It appears whole or
/// not at all. The caller removes it.
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

/// Three running servers. Dropping them ends the servers, and then removes their folder.
#[derive(Debug)]
pub struct Servers {
    // Dropped first: it ends the servers in order. Then each server reaps its child.
    _guard: Guard,
    pub postgres: Server,
    pub redis: Server,
    pub nats: Server,
}

impl Servers {
    /// Starts all three with empty data. Returns when all of them answer.
    pub async fn start() -> Result<Self, ServersError> {
        Self::start_with(None).await
    }

    /// As [`Servers::start`], but Postgres starts with a copy of what [`init_template`] created, which is faster.
    pub async fn start_from(template: &Path) -> Result<Self, ServersError> {
        Self::start_with(Some(template)).await
    }

    /// As [`Servers::start`], but with the data in `folder`, which is created if there is none, and which stays.
    ///
    /// # Errors
    /// Also when other servers use the folder, or when it holds something else.
    pub async fn start_in(folder: &Path) -> Result<Self, ServersError> {
        let folder = std::path::absolute(folder).map_err(cannot_prepare("the folder"))?;
        let programs = find_programs()?;
        Self::guarded(programs, Guard::start_in(&folder)?, None).await
    }

    async fn start_with(template: Option<&Path>) -> Result<Self, ServersError> {
        let programs = find_programs()?;
        Self::guarded(programs, Guard::start()?, template).await
    }

    async fn guarded(
        [postgres, redis, nats]: [PathBuf; 3],
        guard: Guard,
        template: Option<&Path>,
    ) -> Result<Self, ServersError> {
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

    /// Ends all three in order, so that a next start on their data has nothing to recover.
    pub async fn stop(&mut self) {
        tokio::join!(self.postgres.stop(), self.redis.stop(), self.nats.stop());
    }

    /// The URL of the database `coupon`, with the role `coupon`, which is a superuser.
    #[must_use]
    pub fn database_url(&self) -> String {
        format!("postgres://coupon@127.0.0.1:{}/coupon", self.postgres.port())
    }

    /// The URL of Redis, database 0.
    #[must_use]
    pub fn redis_url(&self) -> String {
        format!("redis://{}", self.redis.authority())
    }

    /// The URL of NATS, which serves `JetStream`.
    #[must_use]
    pub fn nats_url(&self) -> String {
        format!("nats://{}", self.nats.authority())
    }
}
