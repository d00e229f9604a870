//! Where a process listens, and what it answers there: first that it is starting, then everything.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::http::server::{self, Threads};
use crate::http::{Api, router, starting};

/// For a start in which every server is there: clients that come meanwhile wait, and are not refused.
const QUICK_START: Duration = Duration::from_secs(1);

/// Where a process listens.
#[derive(Debug)]
pub struct Listeners {
    /// For the API; without the API for monitoring.
    pub http: Option<TcpListener>,
    /// For monitoring alone.
    pub monitor: Option<TcpListener>,
}

/// The servers of both listeners, and the routers that they use for new connections.
#[derive(Debug)]
pub(super) struct Doors {
    http: watch::Sender<Router>,
    monitor: watch::Sender<Router>,
    servers: JoinSet<()>,
}

/// Runs `start` to its end. If that takes longer than [`QUICK_START`], the listeners answer meanwhile that the process
/// is starting.
pub(super) async fn open_within<T>(
    listeners: Listeners,
    threads: &Threads,
    stop: &CancellationToken,
    start: impl Future<Output = T>,
) -> (T, Doors) {
    let mut start = pin!(start);
    let quick = timeout(QUICK_START, &mut start).await;
    let doors = Doors::open(listeners, threads, stop);
    let started = match quick {
        Ok(started) => started,
        Err(_) => start.await,
    };
    (started, doors)
}

impl Doors {
    fn open(Listeners { http, monitor }: Listeners, threads: &Threads, stop: &CancellationToken) -> Self {
        let (routers, mut servers) = ([(); 2].map(|()| watch::Sender::new(starting())), JoinSet::new());
        if let Some(http) = http {
            threads.spawn(server::serve(http, routers[0].subscribe(), stop.clone()), &mut servers);
        }
        if let Some(monitor) = monitor {
            servers.spawn(server::serve(monitor, routers[1].subscribe(), stop.clone()));
        }
        let [http, monitor] = routers;
        Self { http, monitor, servers }
    }

    /// Serves, and watches the servers, until `stop`, and until every request is answered.
    pub(super) async fn serve(mut self, api: Option<Api>, health: &Arc<Health>, stop: &CancellationToken) {
        drop(self.http.send_replace(router(api, health)));
        drop(self.monitor.send_replace(router(None, health)));
        tracing::info!("the start is over: requests are answered");
        let served = async {
            stop.cancelled().await;
            while self.servers.join_next().await.is_some() {}
        };
        tokio::select! {
            () = served => {}
            never = health.watch() => match never {},
        }
    }
}
