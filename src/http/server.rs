//! The accept loop. Our own, because `axum::serve` waits for ever for a header that does not come.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Open at a time; whoever comes then waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 10_000;
/// Connections that wait to be accepted, which the kernel bounds too (`net.core.somaxconn`). One that
/// finds no place there asks again after a second: 256 at once were enough for that with a backlog of
/// 128, the standard library's.
const BACKLOG: u32 = 4_096;
/// For a request's header to come, from the first moment of a connection or the end of the last answer.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A request's header, at the most.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// For requests in progress to end when the process is told to.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Serves until `stop`; then accepts nothing more, and lets requests in progress end.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!("listening on http://{address}");
    }
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let service = TowerToHyperService::new(router);
    loop {
        let place = places.clone().acquire_owned();
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = async { (place.await, listener.accept().await) } => accepted,
        };
        match accepted {
            (Ok(place), Ok((stream, _))) => {
                let connection = connection(stream, service.clone(), stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            (_, Err(error)) => {
                // Out of file descriptors, for example; that passes.
                tracing::warn!(%error, "accept a connection");
                sleep(Duration::from_millis(50)).await;
            }
            (Err(_), _) => break,
        }
    }
    connections.close();
    if timeout(SHUTDOWN_GRACE, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests still in progress are cut off");
    }
}

async fn connection(stream: TcpStream, service: TowerToHyperService<Router>, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
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
