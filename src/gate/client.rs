//! The way to the Redis of the gate: one server, or a Redis Cluster, of which some nodes are named.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_ok;
use futures_util::join;
use outbox_relay::reason::reason_of;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, ErrorKind, IntoConnectionInfo as _, RedisError, TlsCertificates, Value};

use super::cluster::Cluster;
use super::connection::Connection;
use crate::tls::advised;

/// To connect, at least; a caller that waits longer for an answer waits as long for a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// What a server answers to `CLUSTER SLOTS` that is not a node of a Cluster, or whose login may not ask (for a
/// Cluster it must).
const NOT_OF_A_CLUSTER: [&str; 2] = ["ERR", "NOPERM"];

/// Where the gate is. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Client {
    nodes: Arc<[redis::Client]>,
}

impl Client {
    /// The Redis at this URL, or the Cluster that has nodes at these URLs; with Nagle's algorithm off, which the crate
    /// leaves on. Connects to nothing.
    ///
    /// # Errors
    /// When one is not a URL of Redis.
    pub fn open<'a>(urls: impl IntoIterator<Item = &'a str>) -> Result<Self, RedisError> {
        let nodes = urls.into_iter().map(|url| {
            let info = url.into_connection_info()?;
            redis::Client::open(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
        });
        Ok(Self { nodes: nodes.collect::<Result<_, _>>()? })
    }

    /// The same, with these certificate authorities (PEM) in place of the system's.
    ///
    /// # Errors
    /// When they cannot be read, or a URL does not ask for TLS.
    pub fn trusting(self, authorities: &[u8]) -> Result<Self, RedisError> {
        let nodes = self.nodes.iter().map(|node| {
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(authorities.to_vec()) };
            redis::Client::build_with_tls(node.get_connection_info().clone(), certificates)
        });
        Ok(Self { nodes: nodes.collect::<Result<_, _>>()? })
    }

    /// Connects to the first server that answers, and asks it whether it is a node of a Cluster.
    pub(crate) async fn connect(&self, response_timeout: Duration) -> Result<Connection, RedisError> {
        let timeout = CONNECTION_TIMEOUT.max(response_timeout);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(response_timeout));
        if let [only] = &*self.nodes {
            return self.by(only, &config).await;
        }
        let attempts: Vec<_> = self.nodes.iter().map(|node| Box::pin(self.by(node, &config))).collect();
        if attempts.is_empty() {
            return Err((ErrorKind::InvalidClientConfig, "no Redis is named").into());
        }
        select_ok(attempts).await.map(|(connection, _)| connection)
    }

    async fn by(
        &self,
        node: &redis::Client,
        config: &AsyncConnectionConfig,
    ) -> Result<Connection, RedisError> {
        let connected = node.get_multiplexed_async_connection_with_config(config).await;
        let mut connection = connected.map_err(explained)?;
        let mut asking = connection.clone();
        let (ping, slots) = (redis::cmd("PING"), redis::cmd("CLUSTER").arg("SLOTS").to_owned());
        let (answered, slots) =
            join!(ping.exec_async(&mut connection), slots.query_async::<Value>(&mut asking));
        answered?;
        match slots {
            Ok(slots) => {
                let cluster = Cluster::new(self.nodes.clone(), config.clone(), (node, connection), &slots)?;
                Ok(Connection::Cluster(cluster))
            }
            Err(error) if !error.code().is_some_and(|code| NOT_OF_A_CLUSTER.contains(&code)) => Err(error),
            Err(_) if self.nodes.len() == 1 => Ok(Connection::One(connection)),
            Err(_) => Err((
                ErrorKind::InvalidClientConfig,
                "several servers are named, and one is not a node of a Redis Cluster",
                node.get_connection_info().addr().to_string(),
            )
                .into()),
        }
    }
}

/// Says what to do if the server is not trusted.
fn explained(error: RedisError) -> RedisError {
    let reason = reason_of(&error);
    let told = advised(reason.clone(), "REDIS_CA");
    if told == reason { error } else { (ErrorKind::Io, "connect with TLS", told).into() }
}

/// The addresses.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> =
            self.nodes.iter().map(|node| node.get_connection_info().addr().to_string()).collect();
        f.write_str(&addresses.join(", "))
    }
}
