//! The gate in a Redis Cluster: each node has the gates of some campaigns, and what happens to it concerns them alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coupon_dispatcher::ids::CampaignId;
use futures_util::future::join_all;
use serde_json::json;

use crate::support::{Answer, RedisCluster, SOON, TlsFiles, World, owns, wait_until};
use crate::tls::authority;
use crate::trust::{certificate, written};

/// Enough that each of three primaries has some.
const CAMPAIGNS: usize = 12;
const QUANTITY: i64 = 120;
/// From the loss of a node until its replica has taken over and claims of its campaigns are served.
const BACK_WITHIN: Duration = Duration::from_secs(15);

/// Campaigns, each with the primary that has its gate.
struct Scene {
    world: World,
    cluster: RedisCluster,
    campaigns: Vec<(CampaignId, usize)>,
}

impl Scene {
    async fn start() -> Self {
        let (world, cluster) = World::on_redis_cluster().await;
        let mut campaigns = Vec::new();
        // Names are random, and so are the slots: more are opened until each primary has one.
        while campaigns.len() < CAMPAIGNS
            || (0..3).any(|node| campaigns.iter().all(|(_, owner)| *owner != node))
        {
            let campaign = world.open_campaign(json!({ "quantity": QUANTITY })).await;
            campaigns.push((campaign, cluster.owner(campaign, 0).await));
        }
        Self { world, cluster, campaigns }
    }

    /// Users of one campaign, one after the other, until it is enough.
    async fn claims(&self, campaign: CampaignId, enough: &AtomicBool) -> Vec<Answer> {
        let mut answers = Vec::new();
        while !enough.load(Ordering::Relaxed) {
            answers.push(self.world.claim(campaign, &format!("user-{}", answers.len())).await);
        }
        answers
    }

    /// Something happens to a node in a rush. Campaigns of the others see no error, and its own are refused with a 503
    /// until it is over.
    async fn rush(&self, struck: impl Fn(CampaignId, usize) -> bool, happening: impl AsyncFnOnce()) {
        let enough = AtomicBool::new(false);
        let claims = join_all(self.campaigns.iter().map(|(campaign, _)| self.claims(*campaign, &enough)));
        let happening = async {
            for (campaign, _) in &self.campaigns {
                self.world.issued(*campaign, QUANTITY / 10).await;
            }
            happening().await;
            for (campaign, _) in &self.campaigns {
                self.served(*campaign).await;
            }
            enough.store(true, Ordering::Relaxed);
        };
        let (answers, ()) = futures_util::join!(claims, happening);
        for ((campaign, owner), answers) in self.campaigns.iter().zip(answers) {
            let refused = answers.iter().filter(|answer| answer.status >= 500);
            for answer in refused {
                assert!(struck(*campaign, *owner), "{campaign} of node {owner}: {answer:?}");
                assert_eq!((answer.status, answer.problem()), (503, "gate-unavailable"), "{answer:?}");
            }
        }
    }

    /// Claims are decided again.
    async fn served(&self, campaign: CampaignId) {
        let mut users = 0;
        let served = async || {
            users += 1;
            matches!(self.world.claim(campaign, &format!("late-{users}")).await.status, 201 | 410)
        };
        wait_until("claims are served", BACK_WITHIN, served).await;
    }

    /// Other nodes serve the slots of this one.
    async fn taken_over(&self, node: usize) {
        for (campaign, _) in self.campaigns.iter().filter(|(_, owner)| *owner == node) {
            let taken_over = async || self.cluster.owner(*campaign, 0).await != node;
            wait_until("a replica has taken over", SOON, taken_over).await;
        }
    }

    /// All coupons are issued, none more, and every gate equals Postgres.
    async fn close(self, asked: usize) {
        join_all(self.campaigns.iter().map(|(campaign, _)| self.sold(*campaign, asked))).await;
        self.world.close().await;
    }

    async fn sold(&self, campaign: CampaignId, asked: usize) {
        let mut users = 0;
        let sold = async || {
            users += 1;
            self.world.claim(campaign, &format!("last-{users}")).await;
            self.world.coupons(campaign).await >= QUANTITY
        };
        wait_until("all coupons are issued", 2 * SOON, sold).await;
        assert_eq!(self.world.coupons(campaign).await, QUANTITY);
        let key = World::gate(campaign, "");
        let equal = async || {
            let owner = self.cluster.owner(campaign, asked).await;
            let count = async |command: &str| self.cluster.try_ask::<i64>(owner, command).await.ok();
            let taken = count(&format!("SCARD {key}:holders")).await;
            (taken, count(&format!("ZCARD {key}:pending")).await) == (Some(QUANTITY), Some(0))
        };
        wait_until("the gate equals Postgres", SOON, equal).await;
    }
}

#[tokio::test]
async fn every_campaign_of_a_cluster_is_served() {
    let Scene { world, cluster, campaigns } = Scene::start().await;
    for (campaign, owner) in &campaigns {
        let first = world.claim(*campaign, "alice").await;
        assert_eq!(first.status, 201, "node {owner}: {first:?}");
        let second = world.claim(*campaign, "alice").await;
        assert_eq!((second.status, second.problem()), (409, "already-issued"), "{second:?}");
        let loaded: bool = cluster.ask(*owner, &format!("EXISTS {}", World::gate(*campaign, ""))).await;
        assert!(loaded, "its gate is at node {owner}");
    }
    let ready = world.api().get("/readyz").await;
    assert_eq!((ready.status, &ready.body["redis"]), (200, &json!("up")), "{ready:?}");
    // The gates are lost at one node: only its campaigns are loaded again.
    cluster.ask::<redis::Value>(1, "FLUSHALL").await;
    for (campaign, _) in &campaigns {
        let mut users = 0;
        let won = async || {
            users += 1;
            world.claim(*campaign, &format!("bob-{users}")).await.status == 201
        };
        wait_until("claims are served", SOON, won).await;
    }
    let doctor = world.coupon(&["doctor"]).await;
    for node in 0..3 {
        let address = cluster.address(node);
        for check in ["version", "maxmemory-policy", "persistence", "clock", "cluster-require-full-coverage"]
        {
            let found = doctor.out.lines().any(|line| line.contains(&format!("{address} {check}: ")));
            assert!(found, "{address} {check}: {doctor:?}");
        }
    }
    assert!(doctor.out.contains("slots of the Cluster: 0 of 16384"), "{doctor:?}");
    assert!(doctor.out.contains("primaries without a replica: none"), "{doctor:?}");
    world.close().await;
}

fn certified(world: &World) -> TlsFiles {
    let authority = authority("ours");
    let [certificate, key] = certificate(&authority, world.folder(), world.folder());
    TlsFiles { certificate, key, authority: written(&world.folder().join("ca.pem"), &authority.pem()) }
}

/// The first two nodes are named by their ports of TLS; those of the others, and of a replica that takes over, are told
/// by the Cluster.
#[tokio::test]
async fn a_cluster_is_reached_over_tls() {
    let (world, mut cluster) = World::on_redis_cluster_with_tls(certified).await;
    let mut campaigns = Vec::new();
    while (0..3).any(|node| campaigns.iter().all(|(_, owner)| *owner != node)) {
        let campaign = world.open_campaign(json!({})).await;
        assert_eq!(world.claim(campaign, "alice").await.status, 201);
        campaigns.push((campaign, cluster.owner(campaign, 0).await));
    }
    cluster.take(1).kill();
    for (campaign, _) in &campaigns {
        let mut users = 0;
        let served = async || {
            users += 1;
            world.claim(*campaign, &format!("bob-{users}")).await.status == 201
        };
        wait_until("claims are served", SOON, served).await;
    }
    world.close().await;
}

#[tokio::test]
async fn a_primary_that_is_killed_concerns_its_campaigns_alone() {
    let fault = owns("redis-cluster-node-killed");
    let mut scene = Scene::start().await;
    let lost = scene.cluster.address(1);
    let mut victim = scene.cluster.take(1);
    scene
        .rush(
            |_, owner| owner == 1,
            async || {
                victim.kill();
                fault.fired(1);
                scene.world.processes[0].told(&format!("Redis node {lost} gives no seats")).await;
                scene.taken_over(1).await;
            },
        )
        .await;
    fault.healed();
    scene.world.processes[0].told(&format!("Redis node {lost} gives seats again")).await;
    scene.close(0).await;
}

#[tokio::test]
async fn a_primary_that_is_frozen_concerns_its_campaigns_alone() {
    let fault = owns("redis-cluster-node-frozen");
    let mut scene = Scene::start().await;
    let victim = scene.cluster.take(1);
    scene
        .rush(
            |_, owner| owner == 1,
            async || {
                victim.freeze();
                fault.fired(1);
                scene.taken_over(1).await;
                victim.thaw();
            },
        )
        .await;
    fault.healed();
    scene.close(0).await;
}

#[tokio::test]
async fn a_slot_that_moves_concerns_its_campaigns_alone() {
    let fault = owns("redis-cluster-slot-moved");
    let scene = Scene::start().await;
    let moved = scene.campaigns.iter().find(|(_, owner)| *owner == 0).unwrap().0;
    scene
        .rush(
            |campaign, _| campaign == moved,
            async || {
                for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 1)] {
                    scene.cluster.move_slot(moved, from, to).await;
                    fault.fired(1);
                    scene.served(moved).await;
                }
            },
        )
        .await;
    fault.healed();
    scene.close(1).await;
}

/// Nobody goes on with a move, or a slot is taken from its node: its campaigns are refused, and operators are told.
#[tokio::test]
async fn a_slot_that_is_half_moved_or_nowhere_is_reported() {
    let Scene { world, cluster, campaigns } = Scene::start().await;
    let campaign = campaigns.iter().find(|(_, owner)| *owner == 0).unwrap().0;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    let refused = async || {
        let answer = world.claim(campaign, &ulid::Ulid::generate().to_string()).await;
        (answer.status, answer.problem()) == (503, "gate-unavailable")
    };
    let slot = cluster.begin_to_move(campaign, 0, 1).await;
    cluster.move_keys(&[World::gate(campaign, ":holders")], 0, 1).await;
    wait_until("its claims are refused", SOON, refused).await;
    let counted = async || {
        let metrics = world.api().get("/metrics").await.text;
        !metrics.contains("campaign_failures_total{step=\"gate\"} 0\n")
    };
    wait_until("its failures are counted", SOON, counted).await;
    world.processes[0].told("the gate of a campaign fails").await;
    let doctor = world.coupon(&["doctor"]).await.out;
    for node in [0, 1] {
        let moving = format!("{} slots being moved: {slot}", cluster.address(node));
        assert!(doctor.contains(&moving), "{doctor}");
    }
    assert!(doctor.contains(&format!("{} slots being moved: none", cluster.address(2))), "{doctor}");

    cluster.finish_move(slot, 0, 1).await;
    for node in 0..3 {
        cluster.tell(node, &format!("CLUSTER DELSLOTS {slot}")).await;
    }
    wait_until("its claims are refused", SOON, refused).await;
    let told = async || {
        world.api().get("/readyz").await.body.to_string().contains("no node serves 1 of 16384 slots")
    };
    wait_until("readiness says so", SOON, told).await;
    for node in 0..3 {
        let owner: String = cluster.ask(1, "CLUSTER MYID").await;
        cluster.tell(node, &format!("CLUSTER SETSLOT {slot} NODE {owner}")).await;
    }
    let served = async || world.claim(campaign, &ulid::Ulid::generate().to_string()).await.status == 201;
    wait_until("its claims are served", SOON, served).await;
    world.close().await;
}
