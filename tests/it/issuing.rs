//! Many at once: never more than the quantity, never more than a user's limit, and no promise broken.

mod batches;
mod quiet;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::response::Parts;
use axum::http::{HeaderValue, Request};
use coupon_dispatcher::campaign::change::Campaigns;
use coupon_dispatcher::config::{RateLimits, Secret};
use coupon_dispatcher::connections::Connections;
use coupon_dispatcher::coupon::store::Coupons;
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::gate::loader::Loader;
use coupon_dispatcher::gate::worker::Gate;
use coupon_dispatcher::health::{Health, Watch};
use coupon_dispatcher::http::{Api, router};
use coupon_dispatcher::identity::authenticator::Authenticator;
use coupon_dispatcher::ids::CampaignId;
use coupon_dispatcher::issue::work::Claims;
use coupon_dispatcher::issue::{self, Issuer};
use coupon_dispatcher::lifecycle::{self, Lifecycle};
use coupon_dispatcher::limits::Limits;
use coupon_dispatcher::wallet::Wallets;
use coupon_dispatcher::writer::WriterWorker;
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use outbox_relay::{Metrics, Shard};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::ServiceExt as _;
use ulid::Ulid;
use uuid::Uuid;

use crate::support::{SOON, TOKEN, World, wait_for, wait_until};

const THREE: [&str; 3] = ["", "api", "api"];

/// The coupons of a campaign, by id, with their users.
async fn coupons(world: &World, campaign: CampaignId) -> HashMap<Ulid, String> {
    let rows: Vec<(Uuid, String)> = sqlx::query_as("SELECT id, user_id FROM coupons WHERE campaign_id = $1")
        .bind(Uuid::from(campaign.0))
        .fetch_all(&world.pool)
        .await
        .unwrap();
    rows.into_iter().map(|(id, user)| (id.into(), user)).collect()
}

#[tokio::test]
async fn three_processes_never_oversell_and_promise_what_is_there() {
    let world = World::with_processes(&THREE).await;
    let campaign = world.open_campaign(json!({ "quantity": 1_000 })).await;
    let results = world.rush(campaign, 2_000).run().await;
    world.answered(&results).await;

    let coupons = coupons(&world, campaign).await;
    assert_eq!(coupons.len(), 1_000);
    assert_eq!(coupons.values().collect::<HashSet<_>>().len(), 1_000, "somebody has two");
    assert_eq!(results.promised.into_keys().collect::<HashSet<_>>(), coupons.into_keys().collect());
    assert_eq!(results.issued + results.already_issued + results.sold_out, results.offered);
    assert_eq!(results.issued, 1_000, "each coupon was given once as new");
    world.close().await;
}

#[tokio::test]
async fn every_user_gets_his_coupon_when_there_is_one_for_each() {
    let world = World::with_processes(&THREE).await;
    let campaign = world.open_campaign(json!({ "quantity": 1_500 })).await;
    let results = world.rush(campaign, 1_500).run().await;
    world.answered(&results).await;
    assert_eq!((results.promised.len(), results.sold_out), (1_500, 0));
    world.close().await;
}

#[tokio::test]
async fn claims_of_one_user_at_once_get_as_many_coupons_as_the_limit() {
    let world = World::with_processes(&THREE).await;
    for limit in [1, 3] {
        let campaign = world.open_campaign(json!({ "per_user_limit": limit })).await;
        let claims = (0..60).map(async |number: usize| {
            let api = world.processes[number % 3].http();
            let body = json!({ "user_id": "alice" });
            api.post(&format!("/v1/campaigns/{campaign}/coupons"), &body).await
        });
        let answers = join_all(claims).await;
        let issued: HashSet<&str> =
            answers.iter().filter(|a| a.status == 201).map(|a| a.body["id"].as_str().unwrap()).collect();
        let held: HashSet<&str> = answers
            .iter()
            .filter(|a| a.status == 409)
            .map(|a| a.body["coupon"]["id"].as_str().unwrap())
            .collect();
        assert_eq!((issued.len(), world.coupons(campaign).await), (limit, limit as i64));
        assert!(answers.iter().all(|answer| [201, 409].contains(&answer.status)), "{answers:?}");
        assert!(held.is_subset(&issued) && held.len() == 1, "{held:?} of {issued:?}");
    }
    world.close().await;
}

#[tokio::test]
async fn claims_of_one_user_in_one_batch_get_a_coupon_each() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "per_user_limit": 3 })).await;
    world.claim(campaign, "somebody").await; // the process knows the campaign now
    world.pending(campaign, 0).await;
    world.servers.postgres.freeze();
    let (bob, alice) = tokio::join!(
        // His batch waits for Postgres, and what comes then is the next one.
        world.claim(campaign, "bob"),
        async {
            world.pending(campaign, 1).await;
            let claims = join_all((0..3).map(async |_| world.claim(campaign, "alice").await));
            let thawed = async {
                world.pending(campaign, 4).await;
                world.servers.postgres.thaw();
            };
            tokio::join!(claims, thawed).0
        }
    );
    assert_eq!(bob.status, 201, "{bob:?}");
    assert!(alice.iter().all(|answer| answer.status == 201), "{alice:?}");
    world.close().await;
}

/// Claims of one shard that a process has in progress.
const PLACES: usize = 1_500;
/// Claims that one writer has place for.
const QUEUE: usize = 4_096;

/// The routes of a process whose gate works, and its writer, which does not work yet.
async fn without_writer(world: &World) -> (Router, WriterWorker) {
    let connections = world.connections().await.unwrap();
    let metrics = issue::metrics::Metrics::default();
    let (gate, gate_worker) = Gate::new(connections.redis.clone(), metrics.of_gate());
    let (loader, _) = Loader::new(connections.redis.clone(), connections.pool.clone());
    let mut writer_worker = WriterWorker::new(Shard(0), 100, &connections.database, Arc::default());
    let claims = Claims::new(gate.clone(), loader.clone());
    let writers = vec![writer_worker.add(claims, metrics.of_writer(Shard(0)))];
    let issuer = Arc::new(Issuer::new(connections.pool.clone(), gate, loader, writers, metrics));
    tokio::spawn(gate_worker.run());
    wait_until("the gate is reached", SOON, async || issuer.gate_is_reachable()).await;
    (routes(connections, issuer), writer_worker)
}

/// The same with a writer that works. Nothing sweeps.
pub(crate) async fn with_writer(world: &World) -> Router {
    let (routes, writer_worker) = without_writer(world).await;
    tokio::spawn(writer_worker.run());
    routes
}

/// The request of a claim.
pub(crate) fn request(campaign: CampaignId, user: &str) -> Request<Body> {
    Request::post(format!("/v1/campaigns/{campaign}/coupons"))
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(Body::from(json!({ "user_id": user }).to_string()))
        .unwrap()
}

/// The status of one claim. What it promises is remembered.
pub(crate) async fn claim(world: &World, routes: &Router, campaign: CampaignId, user: &str) -> u16 {
    let (parts, body) = routes.clone().oneshot(request(campaign, user)).await.unwrap().into_parts();
    let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    if parts.status == 201 {
        world.promised([serde_json::from_value(body["id"].clone()).unwrap()]);
    }
    parts.status.as_u16()
}

/// A claim of each of these users, all at once.
fn claims(routes: &Router, campaign: CampaignId, users: Range<usize>) -> JoinSet<(Parts, Value)> {
    let claims = users.map(|number| {
        let answer = routes.clone().oneshot(request(campaign, &format!("user-{number}")));
        async {
            let (parts, body) = answer.await.unwrap().into_parts();
            (parts, serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap())
        }
    });
    claims.collect()
}

fn is_refused((parts, problem): &(Parts, Value)) {
    let expected =
        json!({ "status": 503, "title": "Too many concurrent requests", "type": "/problems/overloaded" });
    assert_eq!(
        (parts.status.as_u16(), &parts.headers["retry-after"], problem),
        (503, &HeaderValue::from_static("1"), &expected)
    );
}

#[tokio::test]
async fn claims_beyond_those_in_progress_are_refused_and_get_no_seat() {
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 5_000 })).await;
    world.processes[0].kill();
    let (routes, writer_worker) = without_writer(&world).await;
    let mut claims = claims(&routes, campaign, 0..PLACES + 900);
    for _ in 0..900 {
        is_refused(&claims.join_next().await.unwrap().unwrap());
    }
    world.pending(campaign, PLACES).await;
    // While it connects, it refuses, and then whoever has waited too long.
    tokio::spawn(writer_worker.run());
    for (parts, answer) in claims.join_all().await {
        match parts.status.as_u16() {
            201 => world.promised([serde_json::from_value(answer["id"].clone()).unwrap()]),
            503 => {
                let expected = ["/problems/storage-unavailable", "/problems/overloaded"];
                assert!(expected.contains(&answer["type"].as_str().unwrap()), "{answer}");
            }
            _ => panic!("{parts:?} {answer}"),
        }
    }
    world.pending(campaign, 0).await;
    world.processes[0].start().await;
    world.close().await;
}

/// Its queue is full of claims whose users have gone: for those in progress it has place.
#[tokio::test]
async fn claims_for_which_the_writer_has_no_place_give_their_seats_back() {
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 5_000 })).await;
    world.processes[0].kill();
    let (routes, writer_worker) = without_writer(&world).await;
    for part in 0..4 {
        let mut gone = claims(&routes, campaign, part * QUEUE / 4..(part + 1) * QUEUE / 4);
        world.pending(campaign, (part + 1) * QUEUE / 4).await;
        gone.shutdown().await;
    }
    for answer in claims(&routes, campaign, QUEUE..QUEUE + 100).join_all().await {
        is_refused(&answer);
    }
    world.pending(campaign, QUEUE).await;
    tokio::spawn(writer_worker.run());
    world.pending(campaign, 0).await;
    world.processes[0].start().await;
    world.close().await;
}

/// Of a process in which only the API is.
fn routes(connections: Connections, issuer: Arc<Issuer>) -> Router {
    let Connections { pool, nats, .. } = connections;
    let admin_token = Some(Secret::from(TOKEN.to_owned()));
    let authenticator = Authenticator::new(admin_token, Arc::default(), None);
    let api = Api {
        campaigns: Campaigns::new(pool.clone(), 1, issuer.clone()),
        coupons: Coupons::new(pool.clone()),
        wallets: Wallets::new(pool.clone()),
        issuer: issuer.clone(),
        lifecycle: Lifecycle::new(pool.clone(), Vec::new(), lifecycle::metrics::Metrics::default()),
        authenticator,
        limits: Arc::new(Limits::new(&RateLimits::default())),
    };
    let (relays, metrics) = (Vec::new(), Metrics::default());
    let watch = Watch::new(pool, (nats, OUTLET), 1, relays, metrics);
    router(
        Some(api),
        &Arc::new(Health {
            watch,
            issuer: Some(issuer),
            changes: None,
            tokens: None,
            users: None,
            limits: None,
            verdict: None,
        }),
    )
}

#[tokio::test]
async fn campaigns_on_several_shards_are_issued_at_once() {
    let mut world = World::bare(3).await;
    world.migrate().await;
    for roles in ["", "api"] {
        world.add_process(roles).await;
    }
    let mut campaigns = Vec::new();
    for _ in 0..6 {
        campaigns.push(world.open_campaign(json!({ "quantity": 100 })).await);
    }
    let rushes = campaigns.iter().map(|campaign| world.rush(*campaign, 150).run());
    for (campaign, results) in campaigns.iter().zip(join_all(rushes).await) {
        world.answered(&results).await;
        assert_eq!((results.promised.len(), world.coupons(*campaign).await), (100, 100));
    }
    world.close().await;
}

#[tokio::test]
async fn what_is_issued_is_told() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 1 })).await;
    let issued = world.claim(campaign, "alice").await;
    assert_eq!(issued.status, 201, "{issued:?}");
    let coupon = issued.body;
    let context = async_nats::jetstream::new(world.nats().await);
    let stream = wait_for("there is a stream", SOON, async || {
        context.get_stream(OUTLET.stream_of(Shard(0))).await.ok()
    })
    .await;
    let subject = format!("coupons.issued.{campaign}.0");
    let message = wait_for("the event is published", SOON, async || {
        stream.get_last_raw_message_by_subject(&subject).await.inspect_err(|e| eprintln!("{e:?}")).ok()
    });
    let message = message.await;
    let event: Value = serde_json::from_slice(&message.payload).unwrap();
    let header = |name: &str| message.headers.get(name).map(ToString::to_string);
    assert_eq!(header("content-type").as_deref(), Some("application/cloudevents+json"));
    assert_eq!(header("Nats-Msg-Id").as_deref(), event["id"].as_str());
    assert_eq!(header("Outbox-Position"), Some(message.sequence.to_string()));
    for (field, value) in [
        ("specversion", json!("1.0")),
        ("type", json!("coupon.issued.v1")),
        ("source", json!("/coupon-dispatcher")),
        ("subject", coupon["id"].clone()),
    ] {
        assert_eq!(event[field], value, "{field}");
    }
    for field in ["user_id", "number", "campaign_id"] {
        assert_eq!(event["data"][field], coupon[field], "{field}");
    }
    assert_eq!(event["data"]["coupon_id"], coupon["id"]);
    assert!(
        !message.payload.windows(4).any(|part| part == &coupon["code"].as_str().unwrap().as_bytes()[..4])
    );
    for kind in ["campaign-opened", "campaign-sold-out"] {
        let subject = format!("coupons.{kind}.{campaign}.0");
        assert!(stream.get_last_raw_message_by_subject(&subject).await.is_ok(), "{kind}");
    }
    world.close().await;
}
