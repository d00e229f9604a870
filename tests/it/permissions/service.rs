//! The whole service with the rights that the examples give, up to the balance sheet.

use std::fs;
use std::path::PathBuf;

use async_nats::jetstream::{self, consumer::pull};
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::servers::Setup;
use outbox_relay::{Shard, stream};
use serde_json::{Value, json};

use super::nats::{Caller, attack};
use super::{ADMINISTRATOR, FOLDER, NOBODY, add_process, configured, database_url, password, url_of};
use crate::support::subscriber::{coupons, issued, subscriber, until};
use crate::support::{
    Finished, SOON, World, coupon, newest_nats_server, owns, packaged_nats_server, wait_until,
};

#[tokio::test]
async fn the_service_gets_by_with_its_rights_and_nobody_with_more() {
    gets_by(packaged_nats_server()).await;
}

#[tokio::test]
async fn the_service_gets_by_with_its_rights_on_the_newest_nats_too() {
    gets_by(newest_nats_server()).await;
}

async fn gets_by(nats: PathBuf) {
    let mut world = configured(Some(nats)).await;
    add_process(&mut world, "api", "api", "api", "api").await;
    // A projector may not make the stream, and waits for the relay to do so.
    add_process(&mut world, "project", "projector", "projector", "auditor").await;
    wait_until("the projector misses the stream", SOON, async || {
        world.processes[1].log().contains("stream COUPONS-0")
    })
    .await;
    assert_eq!(world.end_of_stream(Shard(0)).await, 0);
    add_process(&mut world, "relay", "relay", "relay", NOBODY).await;
    let mut listeners = Caller::all(&world).await;
    for listener in &mut listeners {
        listener.listen().await;
    }

    let campaign = world.open_campaign(json!({ "quantity": 500 })).await;
    let rush = tokio::spawn(world.rush(campaign, 600).run());
    world.issued(campaign, 100).await;
    for process in &mut world.processes[1..] {
        process.kill();
        process.start().await;
    }
    world.answered(&rush.await.unwrap()).await;
    world.balanced().await;
    for listener in &mut listeners {
        assert_eq!(listener.heard().await, 0, "messages heard by {}", listener.name);
    }
    let audited = run_as(&world, "reader", "auditor", &["audit", "--full"]).await;
    assert_eq!((audited.code, audited.out.lines().last()), (Some(0), Some("balanced")), "{audited:?}");
    let looked = run_as(&world, "reader", "auditor", &["status", "--json"]).await;
    assert_eq!(looked.code, Some(0), "{looked:?}");
    let looked: Value = serde_json::from_str(&looked.out).unwrap();
    assert!(looked["shards"][0]["backlog"] == 0 && looked["shards"][0]["leader"].is_string(), "{looked}");
    replay(&world).await;
    subscribe(&world).await;
    attack(&world, listeners).await;
    world.close().await;
}

/// What is replaced in the configuration of NATS, by what, and what the relay is told then.
const TAKEN_AWAY: [(&str, &str, &str); 2] = [
    ("relay-password", "another-password", "authorization violation"),
    ("\"coupons.*.*.0\"", "\"nothing\"", "permissions violation"),
];

#[tokio::test]
async fn a_relay_without_its_rights_waits_until_they_are_given_back() {
    let fault = owns("nats-rights-taken-away");
    let mut world = configured(None).await;
    let rights = fs::read_to_string(format!("{FOLDER}/nats.conf")).unwrap();
    for (roles, user, of_redis) in
        [("api", "api", "api"), ("relay", "relay", NOBODY), ("project", "projector", "auditor")]
    {
        add_process(&mut world, roles, user, user, of_redis).await;
    }
    let campaign = world.open_campaign(json!({ "quantity": 500 })).await;
    for (number, (right, none, told)) in (1..).zip(TAKEN_AWAY) {
        world.assert_published().await;
        serves_with(&mut world, &rights.replace(right, none)).await;
        let answer = world.claim(campaign, &format!("first-{number}")).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        wait_until("the relay is refused", SOON, async || {
            world.processes[1].log().to_lowercase().contains(told)
        })
        .await;
        fault.fired(1);
        world.answered(&world.rush(campaign, 100 * number).run().await).await;
        assert!(world.end_of_stream(Shard(0)).await < world.head(Shard(0)).await);
        serves_with(&mut world, &rights).await;
        world.balanced().await;
    }
    fault.healed();
    world.close().await;
}

/// NATS, with this configuration.
async fn serves_with(world: &mut World, rights: &str) {
    let config = world.folder().join("nats.conf");
    fs::write(&config, rights).unwrap();
    let setup = Setup {
        arguments: vec!["-c".to_owned(), config.to_str().unwrap().to_owned()],
        login: Some((ADMINISTRATOR.to_owned(), password(ADMINISTRATOR))),
        ..Setup::default()
    };
    world.servers.nats.restart_with(setup).await.unwrap();
}

async fn replay(world: &World) {
    let arguments = ["replay", "--run", "again", "--type", "issued"];
    stream::of_replays(&world.nats().await, &OUTLET).await.unwrap();
    let replayed = run_as(world, "replay", "replay", &arguments).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    assert_eq!(world.messages("COUPONS-REPLAY").await.len(), 500);
}

/// The example in Python, with a consumer that the administrator has made.
async fn subscribe(world: &World) {
    let context = jetstream::new(world.nats().await);
    let config = pull::Config {
        durable_name: Some("loyalty".to_owned()),
        filter_subject: "coupons.issued.*.0".to_owned(),
        max_ack_pending: 1,
        ..Default::default()
    };
    context.create_consumer_on_stream(config, "COUPONS-0").await.unwrap();
    let database = world.folder().join("loyalty.db");
    let filter = "--filter=coupons.issued.*.0";
    let arguments = ["COUPONS-0", "loyalty", database.to_str().unwrap(), filter, "--bind"];
    let mut loyalty = subscriber(world, &arguments);
    loyalty.set("NATS_URL", &url_of("loyalty", &world.servers.nats_url()));
    let events = world.outbox(Shard(0)).await;
    let last = events.iter().rfind(|event| event.kind == "issued").unwrap().position;
    until(&mut loyalty, last).await;
    assert_eq!(coupons(&database).await, issued(world).await);
}

pub(super) async fn run_as(world: &World, role: &str, user: &str, arguments: &[&str]) -> Finished {
    let mut environment = world.environment();
    environment.extend([
        ("DATABASE_URL", database_url(world, role)),
        ("NATS_URL", url_of(user, &world.servers.nats_url())),
        ("REDIS_URL", url_of(user, &world.servers.redis_url())),
    ]);
    coupon(arguments, &environment).await
}
