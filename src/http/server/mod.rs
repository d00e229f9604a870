//! The accept loop. Our own, because `axum::serve` waits for ever for a header that does not come.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod connection;
mod places;
mod threads;

use self::places::Places;
pub use self::threads::Threads;

/// Open at a time, if the process may have as many files.
const CONNECTIONS_MAX: usize = 10_000;
/// Files for everything else: some 40 connections to the servers for 64 shards and as many again, and logs.
const FILES_RESERVED: usize = 256;
/// Connections that wait to be accepted, which the kernel bounds too (`net.core.somaxconn`). One that
/// finds no place there asks again after a second: 256 at once were enough for that with a backlog of
/// 128, the standard library's.
const BACKLOG: u32 = 4_096;
/// For requests in progress to end when the process is told to.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Serves until `stop`; then accepts nothing more, and lets requests in progress end.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let connections_max = connections_max();
    if let Ok(address) = listener.local_addr() {
        tracing::info!("listening on http://{address}, for at most {connections_max} connections");
    }
    let places = Places::new(connections_max);
    let connections = TaskTracker::new();
    tokio::select! {
        () = stop.cancelled() => {}
        never = accept(&listener, &places, &connections, router, &stop) => match never {},
        never = places.watch() => match never {},
    }
    connections.close();
    if timeout(SHUTDOWN_GRACE, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests still in progress are cut off");
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Places,
    connections: &TaskTracker,
    router: Router,
    stop: &CancellationToken,
) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let place = places.take().await;
                connections.spawn(connection::serve(stream, place, router.clone(), stop.clone()));
            }
            Err(error) => {
                // Out of file descriptors, for example, which others of this process have taken.
                tracing::warn!(%error, "accept a connection");
                places.make_room();
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// As many connections as there can be at a time, after the limit of open files is raised as far as the
/// process may raise it: a quarter of the files is for everything else, or all that it ever needs.
fn connections_max() -> usize {
    let allowed = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: allowed.maximum, ..allowed };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => allowed.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files stays as it is");
            allowed.current
        }
    };
    let files = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let connections_max = (files - FILES_RESERVED.min(files / 4)).clamp(1, CONNECTIONS_MAX);
    if connections_max < CONNECTIONS_MAX {
        tracing::warn!("so few files may be open that {connections_max} connections are the most at a time");
    }
    connections_max
}

/// Listens, or says why not.
///
/// # Errors
/// When the address is taken, or not one of this machine.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?; // at once again after a restart
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
