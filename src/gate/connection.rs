//! A connection to the Redis of the gate, be it one server or a Redis Cluster.

use std::error::Error;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, Value};

pub(crate) use super::cluster::Cluster;
use super::slots::NOT_SERVED;
pub(crate) use super::slots::SLOTS;
use crate::ids::CampaignId;

/// How errors begin that a server answers to every client and for every key.
const OF_SERVER: [&str; 10] = [
    "OOM",
    "MISCONF",
    "BUSY",
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "NOREPLICAS",
    "CLUSTERDOWN",
    "NOAUTH",
    "NOPERM",
];
/// How errors begin that a node of a Cluster answers for a slot that it does not serve, or that is being moved.
const OF_SLOT: [&str; 4] = ["MOVED", "ASK", "TRYAGAIN", "EXECABORT"];

/// Whether an error says that a server cannot be reached, does not answer, or refuses whatever it is asked; or that the
/// slot of the key is not there. Any other may be of one key alone, such as a key of another type.
pub(super) fn is_of_server(error: &RedisError) -> bool {
    is_outage(error) || error.code().is_some_and(|code| OF_SERVER.contains(&code) || OF_SLOT.contains(&code))
}

/// Whether Redis is away, of which the worker of the gate tells in the log.
pub(super) fn is_outage(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_timeout()
}

/// Whether an error says that the connection to Redis has ended, that none could be made, or that Redis is starting; nothing
/// if it is none of Redis.
pub(crate) fn is_gone(error: &(dyn Error + 'static)) -> Option<bool> {
    let error = error.downcast_ref::<RedisError>()?;
    let is_gone = error.is_io_error() && !error.is_timeout() || error.is_connection_dropped();
    Some(is_gone || error.code() == Some("LOADING"))
}

/// Whether an error concerns the campaigns of one slot of a Cluster: it is being moved, or no node serves it.
pub(super) fn is_of_slot(error: &RedisError) -> bool {
    let is_moved = error.code().is_some_and(|code| OF_SLOT.contains(&code));
    is_moved || error.to_string().contains(NOT_SERVED)
}

/// Clones share the connections.
#[derive(Clone, Debug)]
pub(crate) enum Connection {
    One(MultiplexedConnection),
    Cluster(Cluster),
}

impl Connection {
    /// The connection to the keys of a campaign.
    pub(super) fn at(&mut self, campaign: CampaignId) -> &mut Self {
        if let Self::Cluster(cluster) = self {
            cluster.at(campaign);
        }
        self
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command),
            Self::Cluster(cluster) => Box::pin(cluster.command(command)),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => Box::pin(cluster.pipeline(pipeline, offset, count)),
        }
    }

    /// The database of the URL; 0 in a Cluster, which has no other.
    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(_) => 0,
        }
    }
}
