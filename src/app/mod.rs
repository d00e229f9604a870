//! Runs the roles of a process.

mod doors;
mod issuing;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;

use anyhow::Context as _;
use outbox_relay::retention::Retention;
use outbox_relay::{Metrics, Projector, Relay, Shard, Site};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::doors::Doors;
pub use self::doors::Listeners;
use self::issuing::Issuing;
use crate::audit::Auditor;
use crate::campaign::change::Campaigns;
use crate::config::{Config, Role};
use crate::connections::{Connections, MONITOR_CONNECTIONS, Patience};
use crate::coupon::store::Coupons;
use crate::health::{Health, Watch};
use crate::http::Api;
use crate::http::server::{self, Threads};
use crate::identity::authenticator::Authenticator;
use crate::identity::jwt::UserTokens;
use crate::identity::reader;
use crate::identity::tokens::Tokens;
use crate::limits::Limits;
use crate::pool::Pool;
use crate::projections;
use crate::wallet::Wallets;

/// Plays `roles` until `stop`, or until one of them ends; then brings the rest down in order.
///
/// # Errors
/// When a role ends by itself, or cannot start.
pub async fn serve(
    config: &Config,
    roles: &BTreeSet<Role>,
    listeners: Listeners,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let threads = Threads::start().context("start the threads of HTTP")?;
    if let Some(listener) = &listeners.http {
        server::announce(listener);
    }
    let opened = Connections::open(config, Patience::Endless);
    let (connections, doors) = tokio::select! {
        opened = doors::open_within(listeners, &threads, &stop, opened) => opened,
        () = stop.cancelled() => return Ok(()),
    };
    let connections = connections?;
    let wakes: Vec<Arc<Notify>> = (0..config.shards).map(|_| Arc::default()).collect();
    let monitor = Pool::new(&connections.database, MONITOR_CONNECTIONS)?;
    let (mut background, health) = start_roles(config, roles, &connections, &wakes, monitor);
    let served = async {
        if roles.contains(&Role::Api) {
            serve_api(config, &connections, wakes, (health, doors), &stop).await;
        } else {
            doors.serve(None, &Arc::new(health), &stop).await;
        }
    };
    let result = tokio::select! {
        () = served => Ok(()),
        Some(ended) = background.join_next() => Err(anyhow::anyhow!("a role ended by itself: {ended:?}")),
    };
    stop.cancel();
    background.shutdown().await; // safe at any point
    connections.close().await;
    result
}

/// Starts everything but the API: relays, projectors, retention, the auditor. Each runs until it is dropped.
fn start_roles(
    config: &Config,
    roles: &BTreeSet<Role>,
    connections: &Connections,
    wakes: &[Arc<Notify>],
    monitor: Pool,
) -> (JoinSet<()>, Health) {
    let Connections { database, nats, outlet, outage, .. } = connections.clone();
    let mut background = JoinSet::new();
    let mut relays = Vec::new();
    let metrics = Metrics::default();
    for (shard, wake) in (0..config.shards).map(Shard).zip(wakes) {
        let (database, nats, outage) = (database.clone(), nats.clone(), outage.clone());
        let site = Site { outlet, shard, database, nats, appended: wake.clone(), outage };
        if roles.contains(&Role::Relay) {
            let relay = Relay::new(site.clone(), config.replicas).with_metrics(metrics.clone());
            relays.push((shard, relay.status()));
            background.spawn(async move { match relay.run().await {} });
        }
        if roles.contains(&Role::Project) {
            let projector = Projector::new(site, "projections", projections::all());
            let projector = projector.with_metrics(metrics.clone());
            background.spawn(async move { match projector.run().await {} });
        }
    }
    if roles.contains(&Role::Relay)
        && let Some(keep) = config.outbox_retention
    {
        let projections = projections::names();
        let retention = Retention { outlet, shards: config.shards, projections, keep };
        let (database, nats) = (database.clone(), nats.clone());
        background.spawn(async move { match retention.run(&database, &nats).await {} });
    }
    let verdict = roles.contains(&Role::Project).then(|| {
        let auditor =
            Auditor::new(connections.clone(), config.shards).with_gate_told(roles.contains(&Role::Api));
        let verdict = auditor.latest();
        background.spawn(async move { match auditor.run().await {} });
        verdict
    });
    let watch = Watch::new(monitor, (nats, outlet), config.shards, relays, metrics);
    (
        background,
        Health { watch, issuer: None, changes: None, tokens: None, users: None, limits: None, verdict },
    )
}

/// Serves the API until it is to stop; then lets requests, writers and the gate finish, in this order.
async fn serve_api(
    config: &Config,
    connections: &Connections,
    wakes: Vec<Arc<Notify>>,
    (health, doors): (Health, Doors),
    stop: &CancellationToken,
) {
    let pool = connections.pool.clone();
    let ((issuer, lifecycle), mut issuing) = Issuing::start(config, connections, wakes);
    let admin_token = config.admin_token.clone();
    if admin_token.is_none() {
        tracing::warn!("there is no ADMIN_TOKEN: /v1 takes API tokens and tokens of end users alone");
    }
    let users = config.users.as_ref().map(|users| Arc::new(UserTokens::new(users)));
    let (tokens, token_pool) = (Arc::new(Tokens::default()), health.watch.pool.clone());
    // So that the first request finds them. A failure is logged when they are read again, which is at once.
    let mut fetching = pin!(fetch_keys(users.as_deref()));
    let known = async { tokio::join!(reader::read(&tokens, &token_pool), first_keys(users.as_deref())) };
    tokio::select! {
        never = &mut fetching => match never {},
        (read, ()) = known => drop(read),
    }
    let limits = Arc::new(Limits::new(&config.limits));
    let health = Arc::new(Health {
        issuer: Some(issuer.clone()),
        changes: Some(lifecycle.metrics().clone()),
        tokens: Some(tokens.clone()),
        users: users.clone(),
        limits: Some(limits.clone()),
        ..health
    });
    let api = Api {
        campaigns: Campaigns::new(pool.clone(), config.shards, issuer.clone()),
        coupons: Coupons::new(pool.clone()),
        wallets: Wallets::new(pool.clone()),
        issuer,
        lifecycle,
        authenticator: Authenticator::new(admin_token, tokens.clone(), users.clone()),
        limits,
    };
    tokio::select! {
        () = doors.serve(Some(api), &health, stop) => {}
        never = reader::run(tokens, token_pool) => match never {},
        never = fetching => match never {},
        () = issuing.upkeep_ended() => {}
    }
    // The routes are gone, and with this the last that could ask.
    drop(health);
    issuing.drain().await;
}

/// Keeps the keys of end users up to date.
async fn fetch_keys(users: Option<&UserTokens>) -> Infallible {
    match users {
        Some(users) => users.run().await,
        None => pending().await,
    }
}

/// Waits for the first fetch of the keys of end users, 2 s at most.
async fn first_keys(users: Option<&UserTokens>) {
    if let Some(users) = users {
        users.renewed().await;
    }
}
