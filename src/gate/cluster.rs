//! A connection to a Redis Cluster: one to each of its primaries. A node that is lost concerns its campaigns alone.
//!
//! The crate's own client is not used: when it looks for the slots' new nodes, every request waits until each node has
//! answered or timed out. Here a command to a node that is away fails at once, and a task of its own asks the others
//! which node serves the slots now, until each slot is served.
//!
//! A command that went to the wrong node (`MOVED`) was not carried out, and is sent once more to the right one. Nothing
//! else is repeated. While a slot is being moved (`ASK`, `TRYAGAIN`), commands to its campaigns may fail: Redis runs no
//! script whose keys are on two nodes.

use std::sync::Arc;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisError, Value};

use super::keys::PROBE;
use super::nodes::Nodes;
use super::slots::{Node, Slots, slot_of, tag_in};
use crate::ids::CampaignId;

/// Clones share the connections to the nodes.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    nodes: Arc<Nodes>,
    /// Where commands go.
    slot: u16,
}

impl Cluster {
    /// The Cluster of a node that has answered `slots` on `connection`.
    pub(super) fn new(
        named: Arc<[redis::Client]>,
        config: AsyncConnectionConfig,
        answered: (&redis::Client, MultiplexedConnection),
        slots: &Value,
    ) -> Result<Self, RedisError> {
        Ok(Self { nodes: Nodes::new(named, config, answered, slots)?, slot: 0 })
    }

    /// From now on commands go to the node that serves this campaign.
    pub(super) fn at(&mut self, campaign: CampaignId) {
        self.slot = slot_of(campaign);
    }

    pub(super) async fn command(&self, command: &Cmd) -> Result<Value, RedisError> {
        let node = self.nodes.owner(self.slot)?;
        match self.nodes.command(&node, command).await {
            Err(error) => match self.nodes.moved(&node, &error) {
                Some(node) => self.nodes.command(&node, command).await,
                None => Err(error),
            },
            answer => answer,
        }
    }

    /// All commands of a pipeline go to one node, and only read: it may be repeated.
    pub(super) async fn pipeline(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> Result<Vec<Value>, RedisError> {
        let node = self.nodes.owner(self.slot)?;
        match self.nodes.pipeline(&node, pipeline, [offset, count]).await {
            Err(error) => match self.nodes.moved(&node, &error) {
                Some(node) => self.nodes.pipeline(&node, pipeline, [offset, count]).await,
                None => Err(error),
            },
            answer => answer,
        }
    }

    /// Makes sure that one of the primaries gives seats.
    pub(super) async fn probe(&self) -> Result<(), RedisError> {
        let found = self.probe_each().await.into_iter().map(|(_, found)| found);
        let nothing = Err((ErrorKind::Io, "no node of the Redis Cluster serves a slot").into());
        found.reduce(Result::or).unwrap_or(nothing)
    }

    /// Asks each primary whether seats can be taken there. Writes nothing.
    pub(super) async fn probe_each(&self) -> Vec<(Node, Result<(), RedisError>)> {
        let asked = self.primaries().into_iter().map(|(node, slot)| async move {
            let mut probe = redis::cmd("SET");
            probe.arg(format!("{PROBE}:{{{}}}", tag_in(slot))).arg("").arg("XX");
            let found = match self.nodes.command(&node, &probe).await {
                // Its slot has moved meanwhile; the next probe asks for another.
                Err(error) if self.nodes.moved(&node, &error).is_some() => Ok(()),
                found => found.map(drop),
            };
            (node, found)
        });
        join_all(asked).await
    }

    /// Each primary, with one of its slots.
    fn primaries(&self) -> Vec<(Node, u16)> {
        self.nodes.slots().primaries().map(|(node, slot)| (node.clone(), slot)).collect()
    }

    /// A connection to each primary, or why there is none.
    pub(crate) async fn each(&self) -> Vec<(Node, Result<MultiplexedConnection, RedisError>)> {
        let connected = self.primaries().into_iter().map(|(node, _)| async move {
            let connection = self.nodes.to(&node).await.map(|(_, connection)| connection);
            (node, connection)
        });
        join_all(connected).await
    }

    /// Which node serves which slot.
    pub(crate) fn slots(&self) -> Slots {
        self.nodes.slots()
    }
}
