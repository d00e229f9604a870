//! A wire between a process and a server that can be slow, cut, or lose what it is told to lose.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::World;

/// What the wire does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Clear,
    /// Everything takes so much longer, in both directions.
    Slow(Duration),
    /// Connections are closed as soon as they are made.
    Refused,
    /// Connections are made and kept, and nothing comes through.
    Swallowed,
    /// Requests arrive, answers do not.
    HalfOpen,
}

/// Forwards to one server.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    server: SocketAddr,
    wire: Arc<Wire>,
    accepts: JoinHandle<()>,
}

struct Wire {
    line: watch::Sender<Line>,
    /// The connections that are open now.
    open: watch::Sender<CancellationToken>,
    /// The reply to a request in which these bytes are is lost, and its connection with it.
    lost: watch::Sender<Option<Vec<u8>>>,
    /// Connections made before the last of so many silences carry nothing.
    silences: AtomicUsize,
    /// Connections and packets that did not fare as on a clear line.
    fired: AtomicUsize,
}

impl Proxy {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wire = Arc::new(Wire {
            line: watch::Sender::new(Line::Clear),
            open: watch::Sender::default(),
            lost: watch::Sender::default(),
            silences: AtomicUsize::new(0),
            fired: AtomicUsize::new(0),
        });
        let accepts = tokio::spawn(accept(listener, server, wire.clone()));
        Self { address, server, wire, accepts }
    }

    /// From now on, also for connections that are there.
    pub(crate) fn set(&self, line: Line) {
        self.wire.line.send_replace(line);
        if line == Line::Refused {
            self.cut();
        }
    }

    /// Closes all connections. New ones can be made.
    pub(crate) fn cut(&self) {
        self.wire.open.send_replace(CancellationToken::new()).cancel();
        self.wire.fire();
    }

    /// The connections that are open carry nothing any more, and are never closed: their other end died without a
    /// word. New ones are as the line is.
    pub(crate) fn silence(&self) {
        self.wire.silences.fetch_add(1, Ordering::Relaxed);
    }

    /// The next time that a request has `part` in it, it arrives, and its connection is cut when the server
    /// answers.
    pub(crate) fn lose_reply_to(&self, part: &str) {
        self.wire.lost.send_replace(Some(part.as_bytes().to_vec()));
    }

    /// How often it was not a clear line.
    pub(crate) fn fired(&self) -> usize {
        self.wire.fired.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepts.abort();
        self.wire.open.borrow().cancel();
    }
}

impl Wire {
    fn fire(&self) {
        self.fired.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the reply to this is to be lost; then no other is.
    fn loses_reply_to(&self, request: &[u8]) -> bool {
        self.lost.send_if_modified(|lost| {
            let found = lost
                .as_ref()
                .is_some_and(|part| request.windows(part.len()).any(|window| window == part.as_slice()));
            if found {
                *lost = None;
            }
            found
        })
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, wire: Arc<Wire>) {
    while let Ok((client, _)) = listener.accept().await {
        if *wire.line.borrow() == Line::Refused {
            wire.fire();
            continue;
        }
        let Ok(server) = TcpStream::connect(server).await else { continue };
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let ends = wire.open.borrow().child_token();
        let reply_lost = Arc::new(AtomicBool::new(false));
        let made_after = wire.silences.load(Ordering::Relaxed);
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        for (from, to, asks) in [(from_client, to_server, true), (from_server, to_client, false)] {
            let talk = Talk { asks, made_after, wire: wire.clone(), reply_lost: reply_lost.clone() };
            let pump = pump(from, to, talk);
            let ends = ends.clone();
            tokio::spawn(async move {
                ends.run_until_cancelled(pump).await;
                // Both directions end together.
                ends.cancel();
            });
        }
    }
}

/// One direction of a connection.
struct Talk {
    asks: bool,
    /// The number of silences before it was made.
    made_after: usize,
    wire: Arc<Wire>,
    reply_lost: Arc<AtomicBool>,
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, talk: Talk) {
    let Talk { asks, made_after, wire, reply_lost } = talk;
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let packet = &buffer[..count];
        if wire.silences.load(Ordering::Relaxed) > made_after {
            wire.fire();
            continue;
        }
        if asks && wire.loses_reply_to(packet) {
            reply_lost.store(true, Ordering::Relaxed);
        } else if !asks && reply_lost.load(Ordering::Relaxed) {
            wire.fire();
            return;
        }
        let line = *wire.line.borrow();
        if line != Line::Clear {
            wire.fire();
        }
        match line {
            Line::Swallowed => continue,
            Line::HalfOpen if !asks => continue,
            Line::Slow(delay) => sleep(delay).await,
            Line::Clear | Line::HalfOpen | Line::Refused => {}
        }
        if to.write_all(packet).await.is_err() {
            return;
        }
    }
}

/// A server that processes talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    Postgres,
    Redis,
    Nats,
}

impl World {
    /// A wire to this server.
    pub(crate) async fn proxy(&self, hop: Hop) -> Proxy {
        let server = match hop {
            Hop::Postgres => &self.servers.postgres,
            Hop::Redis => &self.servers.redis,
            Hop::Nats => &self.servers.nats,
        };
        Proxy::to(SocketAddr::from(([127, 0, 0, 1], server.port()))).await
    }

    /// Adds a process that reaches servers by these wires, and waits until it serves.
    pub(crate) async fn add_process_through(&mut self, roles: &str, proxies: &[&Proxy]) -> usize {
        self.add_process_as("coupon", roles, proxies).await
    }

    /// The same, with this login at Postgres.
    pub(crate) async fn add_process_as(&mut self, login: &str, roles: &str, proxies: &[&Proxy]) -> usize {
        let mut process = self.process(roles);
        for (variable, url) in self.environment() {
            let wire = proxies.iter().find(|proxy| url.contains(&proxy.server.to_string()));
            if let Some(wire) = wire {
                let url = url.replace(&wire.server.to_string(), &wire.address.to_string());
                process.set(variable, &url.replace("//coupon@", &format!("//{login}@")));
            }
        }
        self.processes.push(process);
        let index = self.processes.len() - 1;
        self.processes[index].start().await;
        index
    }
}
