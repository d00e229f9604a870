//! Where a shard is: its names, its database, its NATS server.

use std::sync::Arc;

use async_nats::Client;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;

use crate::outage::Outage;
use crate::outlet::{Outlet, Shard};

/// What the relay and the projector of one shard need to know.
#[derive(Clone, Debug)]
pub struct Site {
    pub outlet: Outlet,
    pub shard: Shard,
    pub database: PgConnectOptions,
    pub nats: Client,
    /// Notify it after each append to the shard by this process: it wakes the relay of the shard. Without that,
    /// the relay finds new events by polling, within 50 ms.
    pub appended: Arc<Notify>,
    /// Shared by all parts of this process, so that the log has one line for them all when Postgres is away.
    pub outage: Outage,
}

impl Site {
    /// A site with an [`appended`](Site::appended) and an [`outage`](Site::outage) of its own. Clone the site to share them.
    #[must_use]
    pub fn new(outlet: Outlet, shard: Shard, database: PgConnectOptions, nats: Client) -> Self {
        Self { outlet, shard, database, nats, appended: Arc::default(), outage: Outage::default() }
    }

    /// The name of the shard's stream.
    #[must_use]
    pub fn stream(&self) -> String {
        self.outlet.stream_of(self.shard)
    }
}
