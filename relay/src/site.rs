//! Where a shard is: its names, its database, its stream server.

use std::sync::Arc;

use async_nats::Client;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;

use crate::outlet::{Outlet, Shard};

/// What a relay and a projector of one shard need to know.
#[derive(Clone, Debug)]
pub struct Site {
    pub outlet: Outlet,
    pub shard: Shard,
    pub database: PgConnectOptions,
    pub nats: Client,
    /// Notified after each append to the shard by this process. It wakes the relay of the shard, which otherwise
    /// finds new events by polling, within 50 ms.
    pub appended: Arc<Notify>,
}

impl Site {
    /// A site whose relay, if it is in this process, finds new events by polling. To share
    /// [`appended`](Site::appended), clone the site.
    #[must_use]
    pub fn new(outlet: Outlet, shard: Shard, database: PgConnectOptions, nats: Client) -> Self {
        Self { outlet, shard, database, nats, appended: Arc::default() }
    }

    /// The name of the shard's stream.
    #[must_use]
    pub fn stream(&self) -> String {
        self.outlet.stream_of(self.shard)
    }
}
