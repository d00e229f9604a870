//! The nodes of a Redis Cluster: which of them serves which slot, and a connection to each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use std::{fmt, mem};

use futures_util::future::join_all;
use outbox_relay::retry::Retry;
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline, RedisError, Value,
};
use tokio::time::sleep;

use super::slots::{NOT_SERVED, Node, Slots};

/// The first and the longest wait between two looks for the nodes of all slots.
const LOOK_INTERVALS: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];
/// How errors begin that say that slots may be served by other nodes.
const STALE: [&str; 4] = ["READONLY", "MASTERDOWN", "CLUSTERDOWN", "EXECABORT"];

type Answer<T> = Result<T, RedisError>;

/// The nodes of a Cluster that serve slots, and the connections to them.
pub(super) struct Nodes {
    /// The nodes that are named, for the case that none of those that are known answers.
    named: Arc<[redis::Client]>,
    config: AsyncConnectionConfig,
    state: Mutex<State>,
}

struct State {
    /// The connection data of a node that has answered; those of the others differ in the address.
    info: ConnectionInfo,
    slots: Slots,
    links: HashMap<Node, Link>,
    /// Connections that were made: each has a number.
    made: u64,
    /// Slots may be served by other nodes than `slots` says.
    stale: bool,
    /// A task looks for the nodes of all slots.
    looking: bool,
}

enum Link {
    Up(u64, MultiplexedConnection),
    /// Commands fail at once. A task connects again.
    Down,
}

impl Nodes {
    /// The nodes of a Cluster, one of which has answered `slots` on this connection.
    pub(super) fn new(
        named: Arc<[redis::Client]>,
        config: AsyncConnectionConfig,
        (answered, connection): (&redis::Client, MultiplexedConnection),
        slots: &Value,
    ) -> Answer<Arc<Self>> {
        let info = answered.get_connection_info().clone();
        let node = node_of(&info)?;
        let slots = Slots::parse(slots, &node)?;
        // Only if the Cluster knows it by the same name.
        let links = slots.primaries().filter(|(primary, _)| **primary == node);
        let links = links.map(|(node, _)| (node.clone(), Link::Up(0, connection.clone()))).collect();
        let state = State { info, slots, links, made: 0, stale: false, looking: false };
        Ok(Arc::new(Self { named, config, state: Mutex::new(state) }))
    }

    /// Which node serves which slot.
    pub(super) fn slots(&self) -> Slots {
        self.state().slots.clone()
    }

    /// The node that serves a slot.
    pub(super) fn owner(self: &Arc<Self>, slot: u16) -> Answer<Node> {
        let owner = self.state().slots.owner(slot).cloned();
        owner.ok_or_else(|| {
            self.look();
            (ErrorKind::Io, NOT_SERVED, slot.to_string()).into()
        })
    }

    pub(super) async fn command(self: &Arc<Self>, node: &Node, command: &Cmd) -> Answer<Value> {
        let (number, mut connection) = self.to(node).await?;
        let answer = connection.req_packed_command(command).await.and_then(Value::extract_error);
        answer.inspect_err(|error| self.heard(node, number, error))
    }

    pub(super) async fn pipeline(
        self: &Arc<Self>,
        node: &Node,
        pipeline: &Pipeline,
        [offset, count]: [usize; 2],
    ) -> Answer<Vec<Value>> {
        let (number, mut connection) = self.to(node).await?;
        let answers = connection.req_packed_commands(pipeline, offset, count).await;
        let answers = answers.and_then(|answers| answers.into_iter().map(Value::extract_error).collect());
        answers.inspect_err(|error| self.heard(node, number, error))
    }

    /// The connection to a node. The first is made here; after that a task keeps it up.
    pub(super) async fn to(self: &Arc<Self>, node: &Node) -> Answer<(u64, MultiplexedConnection)> {
        match self.state().links.get(node) {
            Some(Link::Up(number, connection)) => return Ok((*number, connection.clone())),
            Some(Link::Down) => return Err(lost(node)),
            None => {}
        }
        self.connect(node).await.inspect_err(|_| self.look())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, node: &Node) -> Answer<(u64, MultiplexedConnection)> {
        let info = self.state().info.clone();
        let connected = async {
            let client = redis::Client::open(info.clone().set_addr(at(info.addr(), node)))?;
            let mut connection = client.get_multiplexed_async_connection_with_config(&self.config).await?;
            redis::cmd("PING").exec_async(&mut connection).await?;
            Ok(connection)
        };
        let connected = connected.await;
        let mut state = self.state();
        state.made += 1;
        let number = state.made;
        let link = match &connected {
            Ok(connection) => Link::Up(number, connection.clone()),
            Err(_) => Link::Down,
        };
        state.links.insert(node.clone(), link);
        connected.map(|connection| (number, connection))
    }

    /// What an error says of the node and its slots.
    fn heard(self: &Arc<Self>, node: &Node, number: u64, error: &RedisError) {
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
            let mut state = self.state();
            let known = state.links.get(node);
            if !matches!(known, Some(Link::Up(known, _)) if *known == number) {
                return; // another connection has taken its place
            }
            state.links.insert(node.clone(), Link::Down);
            drop(state);
            tracing::debug!(%error, "the node {node} of the Redis Cluster is lost");
            self.look();
        } else if error.code().is_some_and(|code| STALE.contains(&code)) {
            self.look();
        }
    }

    /// The node to which `node` refers. Commands for the slot go there from now on.
    pub(super) fn moved(self: &Arc<Self>, node: &Node, error: &RedisError) -> Option<Node> {
        if error.code() != Some("MOVED") {
            return None;
        }
        let (address, slot) = error.redirect_node()?;
        let target = Node::parse(address, node)?;
        self.state().slots.moved(slot, &target);
        self.look();
        Some(target)
    }

    /// Starts to look for the nodes of all slots, unless a task does.
    fn look(self: &Arc<Self>) {
        let mut state = self.state();
        state.stale = true;
        if !mem::replace(&mut state.looking, true) {
            tokio::spawn(look(Arc::downgrade(self)));
        }
    }

    /// Whether all is known, and every node connected. Then the task ends.
    fn rests(&self) -> bool {
        let mut state = self.state();
        let State { slots, links, stale, .. } = &*state;
        let is_up = |node: &Node| !matches!(links.get(node), Some(Link::Down));
        let rests = !stale && slots.primaries().all(|(node, _)| is_up(node));
        state.looking = !rests;
        rests
    }

    /// Asks the nodes that answer, from the `turn`th on, then those that are named, which slots are whose.
    async fn refresh(&self, turn: usize) {
        let mut links: Vec<(Node, MultiplexedConnection)> = Vec::new();
        {
            let mut state = self.state();
            state.stale = false;
            for (node, link) in &state.links {
                if let Link::Up(_, connection) = link {
                    links.push((node.clone(), connection.clone()));
                }
            }
        }
        let first = turn.checked_rem(links.len()).unwrap_or_default();
        links.rotate_left(first);
        for (node, mut connection) in links {
            if self.asked(&node, &mut connection).await {
                return;
            }
        }
        for client in &*self.named {
            let connected = client.get_multiplexed_async_connection_with_config(&self.config).await;
            if let (Ok(mut connection), Ok(node)) = (connected, node_of(client.get_connection_info()))
                && self.asked(&node, &mut connection).await
            {
                self.state().info = client.get_connection_info().clone();
                return;
            }
        }
        self.state().stale = true;
    }

    /// Whether the node has told which slots are whose.
    async fn asked(&self, node: &Node, connection: &mut MultiplexedConnection) -> bool {
        let answer = redis::cmd("CLUSTER").arg("SLOTS").query_async::<Value>(connection).await;
        let Ok(slots) = answer.and_then(|slots| Slots::parse(&slots, node)) else { return false };
        let mut state = self.state();
        let primaries: Vec<Node> = slots.primaries().map(|(node, _)| node.clone()).collect();
        state.links.retain(|node, _| primaries.contains(node));
        state.slots = slots;
        true
    }

    /// Connects to the nodes that were lost.
    async fn reconnect(&self) {
        let lost: Vec<Node> = {
            let state = self.state();
            let down = state.links.iter().filter(|(_, link)| matches!(link, Link::Down));
            down.map(|(node, _)| node.clone()).collect()
        };
        for (node, connected) in lost.iter().zip(join_all(lost.iter().map(|node| self.connect(node))).await) {
            if let Err(error) = connected {
                tracing::debug!(%error, "connect to the node {node} of the Redis Cluster");
            }
        }
    }
}

/// Looks for the nodes of all slots until each is known and connected, or until nobody uses the connection.
async fn look(cluster: Weak<Nodes>) {
    let [first, longest] = LOOK_INTERVALS;
    let mut retry = Retry::new(first, longest);
    for turn in 0.. {
        let Some(nodes) = cluster.upgrade() else { return };
        nodes.refresh(turn).await;
        nodes.reconnect().await;
        drop(nodes);
        sleep(retry.next_wait()).await;
        if cluster.upgrade().is_none_or(|nodes| nodes.rests()) {
            return;
        }
    }
}

fn lost(node: &Node) -> RedisError {
    (ErrorKind::Io, "a node of the Redis Cluster is away", node.to_string()).into()
}

fn node_of(info: &ConnectionInfo) -> Answer<Node> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Ok(Node { host: host.as_str().into(), port: *port })
        }
        _ => Err((
            ErrorKind::InvalidClientConfig,
            "the nodes of a Redis Cluster cannot be reached by a socket",
        )
            .into()),
    }
}

/// The address of a node, with what is beside host and port taken from another.
fn at(address: &ConnectionAddr, node: &Node) -> ConnectionAddr {
    let (host, port) = (node.host.to_string(), node.port);
    match address {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").finish_non_exhaustive()
    }
}
