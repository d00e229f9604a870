//! A Redis Cluster of three primaries, each with a replica.

use std::net::SocketAddr;
use std::path::PathBuf;

use coupon_dispatcher::ids::CampaignId;
use redis::{FromRedisValue, RedisResult, Value};

use super::{Process, SOON, World, free_port, wait_until};

const PRIMARIES: usize = 3;
const NODES: usize = 2 * PRIMARIES;
/// After this time without an answer the others vote for a replica.
const NODE_TIMEOUT_MS: &str = "1000";

pub(crate) struct RedisCluster {
    /// The first three begin as primaries.
    nodes: Vec<Option<Process>>,
    /// Where they take questions without TLS.
    addresses: Vec<SocketAddr>,
}

/// The files of a certificate for this machine, of its key, and of their authority.
pub(crate) struct TlsFiles {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) authority: String,
}

impl World {
    /// A process with all roles, whose gate is in a Cluster.
    pub(crate) async fn on_redis_cluster() -> (Self, RedisCluster) {
        let mut world = Self::bare(1).await;
        let ports = ports();
        let cluster = RedisCluster::start(&world, ports, ports, &[]).await;
        world.set("REDIS_URL", format!("redis://127.0.0.1:{},redis://127.0.0.1:{}", ports[0], ports[1]));
        world.migrate().await;
        world.add_process("").await;
        (world, cluster)
    }

    /// The same. The process speaks to the Cluster over TLS, as its nodes do to each other.
    pub(crate) async fn on_redis_cluster_with_tls(
        files: impl FnOnce(&Self) -> TlsFiles,
    ) -> (Self, RedisCluster) {
        let mut world = Self::bare(1).await;
        let TlsFiles { certificate, key, authority } = files(&world);
        let options = ["--tls-cluster", "yes", "--tls-replication", "yes", "--tls-auth-clients", "no"];
        let files =
            ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &authority];
        let (ports, secure) = (ports(), ports());
        let cluster = RedisCluster::start(&world, ports, secure, &[options, files].concat()).await;
        world.set("REDIS_URL", format!("rediss://127.0.0.1:{},rediss://127.0.0.1:{}", secure[0], secure[1]));
        world.set("REDIS_CA", authority);
        world.migrate().await;
        world.add_process("").await;
        (world, cluster)
    }
}

impl RedisCluster {
    /// `main` are the ports by which the nodes know each other: those of TLS if the bus has TLS, else `ports`.
    async fn start(world: &World, ports: [u16; NODES], main: [u16; NODES], arguments: &[&str]) -> Self {
        let buses = self::ports();
        let mut nodes: Vec<_> = (0..NODES)
            .map(|number| {
                let tls = main[number].to_string();
                let tls = if main == ports { vec![] } else { vec!["--tls-port", &tls] };
                node(world, ports[number], buses[number], &[arguments, &tls].concat())
            })
            .collect();
        nodes.iter_mut().for_each(Process::launch);
        let addresses = nodes.iter().map(|node| node.address).collect();
        let cluster = Self { nodes: nodes.into_iter().map(Some).collect(), addresses };
        for node in 0..NODES {
            let pinged = async || cluster.try_ask::<Value>(node, "PING").await.is_ok();
            wait_until("the node answers", SOON, pinged).await;
        }
        for (node, slots) in ["0 5460", "5461 10922", "10923 16383"].iter().enumerate() {
            cluster.tell(node, &format!("CLUSTER SET-CONFIG-EPOCH {}", node + 1)).await;
            cluster.tell(node, &format!("CLUSTER ADDSLOTSRANGE {slots}")).await;
        }
        for (port, bus) in main.iter().zip(buses).skip(1) {
            cluster.tell(0, &format!("CLUSTER MEET 127.0.0.1 {port} {bus}")).await;
        }
        for node in 0..NODES {
            let known = async || cluster.info(node).await.contains("cluster_known_nodes:6");
            wait_until("all nodes are known", SOON, known).await;
        }
        for node in PRIMARIES..NODES {
            let primary: String = cluster.ask(node - PRIMARIES, "CLUSTER MYID").await;
            let replicates = async || {
                cluster.try_ask::<Value>(node, &format!("CLUSTER REPLICATE {primary}")).await.is_ok()
            };
            wait_until("the primary is known", SOON, replicates).await;
            let linked = async || {
                cluster.ask::<String>(node, "INFO replication").await.contains("master_link_status:up")
            };
            wait_until("the replica has its data", SOON, linked).await;
        }
        for node in 0..NODES {
            let complete = async || {
                cluster.info(node).await.contains("cluster_state:ok")
                    && cluster.ranges(node).await.iter().all(|(.., replicas)| *replicas == 1)
            };
            wait_until("the cluster is complete", SOON, complete).await;
        }
        cluster
    }

    pub(crate) fn address(&self, node: usize) -> SocketAddr {
        self.addresses[node]
    }

    /// The process of a node, which goes on.
    pub(crate) fn take(&mut self, node: usize) -> Process {
        self.nodes[node].take().unwrap()
    }

    pub(crate) async fn try_ask<T: FromRedisValue>(&self, node: usize, command: &str) -> RedisResult<T> {
        let client = redis::Client::open(format!("redis://{}", self.address(node))).unwrap();
        let mut words = command.split(' ');
        let mut question = redis::cmd(words.next().unwrap());
        question.arg(words.collect::<Vec<_>>());
        question.query_async(&mut client.get_multiplexed_async_connection().await?).await
    }

    pub(crate) async fn ask<T: FromRedisValue>(&self, node: usize, command: &str) -> T {
        self.try_ask(node, command).await.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub(crate) async fn tell(&self, node: usize, command: &str) {
        self.ask::<Value>(node, command).await;
    }

    async fn info(&self, node: usize) -> String {
        self.ask(node, "CLUSTER INFO").await
    }

    /// By the word of a node: first and last slot of each range, its primary, and how many replicas that has.
    async fn ranges(&self, node: usize) -> Vec<(u16, u16, usize, usize)> {
        let ranges: Vec<Vec<Value>> = self.ask(node, "CLUSTER SLOTS").await;
        let range = |range: Vec<Value>| {
            let number = |place: usize| redis::from_redis_value::<u16>(range[place].clone()).unwrap();
            let Value::Array(primary) = &range[2] else { panic!("{range:?}") };
            let port: u16 = redis::from_redis_value(primary[1].clone()).unwrap();
            let primary = self.addresses.iter().position(|address| address.port() == port).unwrap();
            (number(0), number(1), primary, range.len() - 3)
        };
        ranges.into_iter().map(range).collect()
    }

    /// The primary that has the gate of a campaign, by the word of a node.
    pub(crate) async fn owner(&self, campaign: CampaignId, asked: usize) -> usize {
        let slot = self.slot(campaign, asked).await;
        let ranges = self.ranges(asked).await;
        let range = ranges.iter().find(|(first, last, ..)| (*first..=*last).contains(&slot));
        range.map(|(_, _, primary, _)| *primary).expect("every slot is served")
    }

    async fn slot(&self, campaign: CampaignId, asked: usize) -> u16 {
        self.ask(asked, &format!("CLUSTER KEYSLOT {}", World::gate(campaign, ""))).await
    }

    /// Moves the slot of a campaign to another primary, while it is used.
    pub(crate) async fn move_slot(&self, campaign: CampaignId, from: usize, to: usize) {
        let slot = self.begin_to_move(campaign, from, to).await;
        self.finish_move(slot, from, to).await;
    }

    /// Moves all keys that are left of a slot, and ends the move.
    pub(crate) async fn finish_move(&self, slot: u16, from: usize, to: usize) {
        loop {
            let keys: Vec<String> = self.ask(from, &format!("CLUSTER GETKEYSINSLOT {slot} 100")).await;
            if keys.is_empty() {
                break;
            }
            self.move_keys(&keys, from, to).await;
        }
        let target: String = self.ask(to, "CLUSTER MYID").await;
        for node in [to, from] {
            self.tell(node, &format!("CLUSTER SETSLOT {slot} NODE {target}")).await;
        }
    }

    /// Begins to move the slot of a campaign, which is returned. No key is moved yet.
    pub(crate) async fn begin_to_move(&self, campaign: CampaignId, from: usize, to: usize) -> u16 {
        let slot = self.slot(campaign, from).await;
        let (source, target): (String, String) =
            (self.ask(from, "CLUSTER MYID").await, self.ask(to, "CLUSTER MYID").await);
        self.tell(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {source}")).await;
        self.tell(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {target}")).await;
        slot
    }

    pub(crate) async fn move_keys(&self, keys: &[String], from: usize, to: usize) {
        let client = redis::Client::open(format!("redis://{}", self.address(from))).unwrap();
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(self.address(to).port()).arg("").arg(0).arg(5_000).arg("KEYS").arg(keys);
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        migrate.query_async::<Value>(&mut connection).await.unwrap();
    }
}

fn ports() -> [u16; NODES] {
    std::array::from_fn(|_| free_port())
}

fn node(world: &World, port: u16, bus: u16, arguments: &[&str]) -> Process {
    let program =
        std::env::var_os("REDIS_SERVER").map_or_else(|| PathBuf::from("redis-server"), PathBuf::from);
    let (name, file) = (format!("redis-{port}"), format!("redis-{port}.nodes"));
    let (port, bus) = (port.to_string(), bus.to_string());
    let command = [
        program.to_str().unwrap(),
        "--port",
        &port,
        "--cluster-port",
        &bus,
        "--bind",
        "127.0.0.1",
        "--dir",
        world.folder().to_str().unwrap(),
        "--save",
        "",
        "--lazyfree-lazy-expire",
        "yes",
        "--cluster-enabled",
        "yes",
        "--cluster-config-file",
        &file,
        "--cluster-node-timeout",
        NODE_TIMEOUT_MS,
        // A node that is away stops nobody else.
        "--cluster-require-full-coverage",
        "no",
        // A replica takes over even if its data are old.
        "--cluster-replica-validity-factor",
        "0",
        "--repl-diskless-sync-delay",
        "0",
        "--repl-ping-replica-period",
        "1",
    ];
    let mut process = world.program(&name, &[&command, arguments].concat());
    process.address.set_port(port.parse().unwrap());
    process
}
