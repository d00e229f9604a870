//! Private servers, and a relay on them.

use std::sync::Arc;

use anyhow::{Result, ensure};
use coupon_dispatcher::config::FIRST_DEPLOYMENT;
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::schema;
use coupon_dispatcher::servers::Servers;
use outbox_relay::{Relay, RelayStatus};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::SHARD;
use crate::support::make_wal_files;

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) servers: Servers,
    pub(crate) database: PgConnectOptions,
}

impl Site {
    pub(crate) async fn start() -> Result<Self> {
        let servers = Servers::start().await?;
        let database = servers.database_url().parse::<PgConnectOptions>()?.disable_statement_logging();
        schema::migrate(&mut database.connect().await?, 1, FIRST_DEPLOYMENT.parse()?).await?;
        make_wal_files(&servers).await?;
        Ok(Self { servers, database })
    }

    /// Opens a new connection.
    pub(crate) async fn nats(&self) -> Result<async_nats::Client> {
        Ok(async_nats::connect(self.servers.nats_url()).await?)
    }
}

/// A relay in this process, which ends when it is dropped.
#[derive(Debug)]
pub(crate) struct RunningRelay {
    pub(crate) wake: Arc<Notify>,
    pub(crate) status: watch::Receiver<RelayStatus>,
    _task: JoinSet<()>,
}

impl RunningRelay {
    pub(crate) async fn start(site: &Site) -> Result<Self> {
        let site = outbox_relay::Site::new(OUTLET, SHARD, site.database.clone(), site.nats().await?);
        let wake = site.appended.clone();
        let relay = Relay::new(site, 1);
        let status = relay.status();
        let mut task = JoinSet::new();
        task.spawn(async move { match relay.run().await {} });
        Ok(Self { wake, status, _task: task })
    }
}

/// Waits until the relay reports that the stream has `position`; fails if the relay halts.
pub(crate) async fn stored(status: &mut watch::Receiver<RelayStatus>, position: i64) -> Result<()> {
    let status = status.wait_for(|status| status.published >= position || status.halted.is_some()).await?;
    ensure!(status.halted.is_none(), "the relay stopped: {:?}", status.halted);
    Ok(())
}
