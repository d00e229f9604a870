//! The accept loop. Our own, because `axum::serve` has no time limit for a header.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod connection;
mod reply;
mod slots;
mod threads;
mod unreadable;

use self::slots::Slots;
pub use self::threads::Threads;

/// Connections that are open at a time, at most, if the process may open as many files.
const CONNECTIONS_MAX: usize = 10_000;
/// Files for everything else: with 64 shards a process has some 40 connections to the servers; as many again for
/// reconnecting, and logs.
const FILES_RESERVED: usize = 256;
/// Connections that wait to be accepted, at most; `net.core.somaxconn` is another limit. A client that finds this
/// queue full retries after a second: with 128, the default of the standard library, 256 clients at once were enough.
const BACKLOG: u32 = 4_096;
/// For requests in progress to be answered when the process stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Serves until `stop`; then accepts no more connections, and answers the requests in progress. Each connection is served
/// by the router that is current when it is accepted.
pub async fn serve(listener: TcpListener, routers: watch::Receiver<Router>, stop: CancellationToken) {
    let connections_max = connections_max();
    let slots = Slots::new(connections_max);
    let connections = TaskTracker::new();
    tokio::select! {
        () = stop.cancelled() => {}
        never = accept(&listener, &slots, &connections, &routers, &stop) => match never {},
        never = slots.watch() => match never {},
    }
    connections.close();
    if timeout(SHUTDOWN_GRACE, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests in progress are cut off");
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Slots,
    connections: &TaskTracker,
    routers: &watch::Receiver<Router>,
    stop: &CancellationToken,
) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let slot = slots.take().await;
                let router = routers.borrow().clone();
                connections.spawn(connection::serve((stream, peer.ip()), slot, router, stop.clone()));
            }
            Err(error) => {
                // Out of file descriptors, for example, which other parts of this process use.
                tracing::warn!(%error, "accept a connection");
                slots.evict();
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// How many connections can be open at a time. Raises the limit of open files as far as the process may, and keeps a
/// quarter of the files for everything else, up to [`FILES_RESERVED`].
fn connections_max() -> usize {
    let allowed = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: allowed.maximum, ..allowed };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => allowed.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            allowed.current
        }
    };
    let files = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let connections_max = (files - FILES_RESERVED.min(files / 4)).clamp(1, CONNECTIONS_MAX);
    if connections_max < CONNECTIONS_MAX {
        tracing::warn!("the limit of open files allows only {connections_max} connections at a time");
    }
    connections_max
}

/// Logs where the API is from now on.
pub fn announce(listener: &TcpListener) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!("listening on http://{address}, for at most {} connections", connections_max());
    }
}

/// Listens on `address`.
///
/// # Errors
/// When the address is in use, or does not belong to this machine.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?; // so that a restarted process need not wait
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
