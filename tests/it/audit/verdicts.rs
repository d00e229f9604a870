//! The whole answer: that all is balanced, that somebody is late, or that nothing can be told.

use std::collections::BTreeMap;
use std::fs;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::servers::Setup;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;
use ulid::Ulid;

use super::{FULL, QUICK, SHARD, Scene};
use crate::outbox::{append_committed, event};
use crate::support::{Process, SOON, World, wait_until};

#[tokio::test]
async fn a_balanced_world_is_said_to_be_balanced() {
    let scene = Scene::start().await;
    for arguments in [QUICK, FULL, &["audit", "--campaign", &scene.campaign.to_string()]] {
        scene.assert_balanced(arguments).await;
    }
    let head = scene.world.head(SHARD).await;
    for (arguments, full) in [(&["audit", "--json"][..], false), (&["audit", "--full", "--json"], true)] {
        let finished = scene.world.coupon(arguments).await;
        assert_eq!(finished.code, Some(0));
        let said: Value = serde_json::from_str(&finished.out).unwrap();
        assert_eq!((&said["balanced"], &said["sheet"]["difference"]), (&json!(true), &Value::Null));
        let mut counts = BTreeMap::new();
        for campaign in said["sheet"]["campaigns"].as_array().unwrap() {
            counts.insert(
                campaign["campaign_id"].clone().to_string(),
                COLUMNS.map(|name| campaign[name].clone()),
            );
        }
        let expected = [(scene.campaign, 20, 20), (scene.other, 10, 0)];
        let expected =
            expected.map(|(id, count, settled)| (json!(id).to_string(), columns(count, settled, full)));
        assert_eq!(counts, expected.into());
        let compared =
            json!({ "events": head, "missing_from_stream": 0, "more_in_stream": 0, "different": 0 });
        assert_eq!(said["sheet"]["shards"][0]["compared"], if full { compared } else { Value::Null });
    }
    let sheet = scene.world.coupon(QUICK).await.out;
    let line = sheet.lines().find(|line| line.starts_with(&scene.other.to_string())).unwrap();
    assert_eq!(
        line.split_whitespace().skip(1).collect::<Vec<_>>(),
        ["10", "10", "10", "-", "10", "-", "-", "-"]
    );
    let stream = jetstream::new(scene.world.nats().await).get_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    wait_until("the auditors' consumers are gone", SOON, async || {
        stream.get_info().await.unwrap().state.consumer_count == 1 // of the projections
    })
    .await;
    scene.world.close().await;
}

const COLUMNS: [&str; 8] =
    ["gate", "coupons", "stream", "issued", "outbox", "wallet", "settlement", "settlement_amount"];

/// What only rows could tell is not in a quick sheet.
fn columns(count: i64, settled: i64, full: bool) -> [Value; 8] {
    let counted = |count| if full { json!(count) } else { Value::Null };
    let known = json!(count);
    let rows = [count, count, count, settled, settled * 500].map(counted);
    let [issued, outbox, wallet, settlement, amount] = rows;
    [known.clone(), known.clone(), known, issued, outbox, wallet, settlement, amount]
}

#[tokio::test]
async fn a_projection_or_a_relay_that_lags_is_named() {
    let mut scene = Scene::start().await;
    scene.world.processes[1].kill();
    let head = scene.world.head(SHARD).await;
    let other = scene.other.to_string();
    let of_shard = ["audit", "--campaign", &other];
    let claimed = scene.world.claim(scene.campaign, "the-last").await;
    assert_eq!(claimed.status, 201);
    scene.world.assert_published().await;
    let coupon = claimed.body["id"].as_str().unwrap();
    scene.assert_named(FULL, &[&scene.campaign.to_string(), "wallet", coupon]).await;
    let late = format!("wallet has applied shard 0 up to {head}, the outbox ends at {}", head + 1);
    for arguments in [QUICK, &of_shard] {
        scene.assert_named(arguments, &[&late]).await;
    }
    scene.world.processes[2].kill();
    assert_eq!(scene.world.claim(scene.campaign, "the-very-last").await.status, 201);
    let late = format!("stream COUPONS-0 ends at {}, the outbox at {}", head + 1, head + 2);
    scene.assert_named(&of_shard, &[&late]).await;
    for process in [1, 2] {
        scene.world.processes[process].start().await;
    }
    scene.world.close().await;
}

#[tokio::test]
async fn of_a_campaign_that_is_not_there_nothing_can_be_told() {
    let scene = Scene::start().await;
    let unknown = Ulid::generate().to_string();
    for arguments in [QUICK, FULL] {
        let finished = scene.world.coupon(&[arguments, &["--campaign", &unknown]].concat()).await;
        assert_eq!((finished.code, finished.out.as_str()), (Some(2), ""), "{finished:?}");
        assert!(finished.err.contains(&format!("there is no campaign {unknown}")), "{finished:?}");
    }
    scene.world.close().await;
}

/// The audit's consumer is at a replica that has not got the last events: its questions go to another one,
/// which leaves them out, or to nobody.
#[tokio::test]
async fn what_a_replica_has_not_got_yet_is_not_missing() {
    let mut world = World::with_processes(&["api,relay", "project"]).await;
    append_committed(&world, SHARD, &[event("tested"), event("tested"), event("late"), event("late")]).await;
    world.balanced().await;
    world.processes.iter_mut().for_each(Process::kill);
    let config = world.folder().join("lagging.conf");
    let next = "$JS.API.CONSUMER.MSG.NEXT.COUPONS-0";
    let zero = "{{partition(1,1)}}"; // of one partition, whatever the name
    fs::write(&config, format!("mappings: {{ \"{next}.*\": \"{next}.{zero}\" }}\n")).unwrap();
    let arguments = vec!["-c".to_owned(), config.to_str().unwrap().to_owned()];
    world.servers.nats.restart_with(Setup { arguments, ..Setup::default() }).await.unwrap();

    let nats = world.nats().await;
    let stream = jetstream::new(nats.clone()).get_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    let gives = async |filter: &str| {
        let (durable_name, filter_subject) = (Some("0".to_owned()), filter.to_owned());
        let config =
            pull::Config { durable_name, filter_subject, ack_policy: AckPolicy::None, ..Default::default() };
        stream.create_consumer(config).await.unwrap();
    };
    let says = async |reached: &str| {
        let finished = world.coupon(FULL).await;
        assert_eq!((finished.code, finished.out.as_str()), (Some(2), ""), "{finished:?}");
        assert!(finished.err.contains(reached), "{finished:?}");
        assert!(finished.err.contains("and the stream holds more"), "{finished:?}");
    };
    // Nobody answers at all, which is asked again too.
    says("nothing after sequence 0").await;
    gives("coupons.tested.*.0").await;
    says("nothing after sequence 2").await;

    // It delivers nothing, then a question is lost (this listener does not answer it), then it has caught up.
    stream.delete_consumer("0").await.unwrap();
    gives("coupons.nothing.*.0").await;
    let mut questions = nats.subscribe(format!("{next}.*")).await.unwrap();
    nats.flush().await.unwrap();
    let audit = world.start_coupon(FULL);
    timeout(SOON, questions.next()).await.expect("a question");
    stream.delete_consumer("0").await.unwrap();
    timeout(SOON, questions.next()).await.expect("a question that nobody answers");
    gives("").await;
    let finished = audit.finished().await;
    assert_eq!((finished.code, finished.out.lines().last()), (Some(0), Some("balanced")), "{finished:?}");
    stream.delete_consumer("0").await.unwrap();

    world.servers.nats.restart_with(Setup::default()).await.unwrap();
    for process in &mut world.processes {
        process.start().await;
    }
    world.close().await;
}

#[tokio::test]
async fn without_one_of_the_servers_nothing_can_be_told() {
    let mut scene = Scene::start().await;
    let servers = &mut scene.world.servers;
    for server in [&mut servers.postgres, &mut servers.redis, &mut servers.nats] {
        server.kill().await;
    }
    for (number, name) in [(0, "Postgres"), (1, "NATS"), (2, "")] {
        let finished = scene.world.coupon(FULL).await;
        assert_eq!((finished.code, finished.out.as_str()), (Some(2), ""), "{finished:?}");
        assert!(finished.err.contains(name), "{finished:?}");
        let servers = &mut scene.world.servers;
        [&mut servers.postgres, &mut servers.nats, &mut servers.redis][number].start().await.unwrap();
    }
    scene.world.balanced().await;
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}
