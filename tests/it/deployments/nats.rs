//! On one NATS, with a database each.

use std::collections::HashMap;

use async_nats::jetstream::{self, stream::Config as StreamConfig};
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::servers::Setup;
use futures_util::TryStreamExt as _;
use outbox_relay::stream;
use serde_json::json;

use super::{BLUE, SHARD, STREAM, everything, said};
use crate::support::{Nats, Process, SOON, World, newest_nats_server, owns, wait_for, wait_until};

/// A process of the other deployment, on the NATS of the first.
async fn starts_on_nats_of(one: &World, other: &mut World) {
    let mut process = other.process("");
    process.set("NATS_URL", &one.servers.nats_url());
    process.start().await;
    other.processes.push(process);
}

/// The process starts again, on the NATS of its own deployment.
async fn gets_its_own_nats(other: &mut World) {
    other.processes[0].kill();
    let own = other.servers.nats_url();
    other.processes[0].set("NATS_URL", &own);
    other.processes[0].start().await;
}

/// In the steps of `docs/how-to/deploy.md`.
#[tokio::test]
async fn a_deployment_can_be_renamed() {
    let mut world = World::bare(1).await;
    let newest = Setup { program: Some(newest_nats_server()), ..Setup::default() };
    world.servers.nats.restart_with(newest).await.unwrap();
    world.deployment = BLUE;
    world.migrate().await;
    world.add_process("").await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.balanced().await;
    world.processes.iter_mut().for_each(Process::kill);
    world.processes.clear();

    world.execute("UPDATE deployment SET name = 'green'").await;
    world.deployment = "green";
    said(&world.coupon(&["migrate"]).await, 0, &[]);
    let (_, id) = world.owner().await;
    let context = jetstream::new(world.nats().await);
    let named = ["deployment", "deployment-id"].map(str::to_owned).into_iter();
    let metadata: HashMap<_, _> = named.zip(["green".to_owned(), id]).collect();
    let streams: Vec<_> = context.streams().try_collect().await.unwrap();
    for info in streams {
        context.update_stream(StreamConfig { metadata: metadata.clone(), ..info.config }).await.unwrap();
    }
    world.add_process("").await;
    assert_eq!(world.claim(campaign, "bob").await.status, 201);
    world.balanced().await;

    let found = everything(&world.nats().await).await;
    for consumer in ["COUPONS-0 projections-green", "COUPONS-0 projections-blue"] {
        assert!(found.contains_key(consumer), "{consumer}: {found:?}");
    }
    let stream = context.get_stream(STREAM).await.unwrap();
    stream.delete_consumer("projections-blue").await.unwrap();
    assert_eq!(world.claim(campaign, "carol").await.status, 201);
    world.close().await;
}

/// The second has a database of its own. It serves claims and publishes nothing, until it has a NATS of its own.
#[tokio::test]
async fn a_second_one_on_a_nats_halts_in_words_and_touches_nothing() {
    let fault = owns("nats-of-another-deployment");
    let one = World::on(Nats::Newest, &[""]).await;
    let campaign = one.open_campaign(json!({ "quantity": 500 })).await;
    one.answered(&one.rush(campaign, 100).run().await).await;
    one.balanced().await;
    let mut other = World::bare(1).await;
    other.deployment = BLUE;
    other.migrate().await;
    let before = everything(&one.nats().await).await;

    starts_on_nats_of(&one, &mut other).await;
    fault.fired(1);
    let reason = other.halted().await;
    for (name, id) in [one.owner().await, other.owner().await] {
        assert!(reason.contains(&format!("deployment {name} (id {id})")), "{reason}");
    }
    assert!(reason.contains("a NATS account or a NATS server of its own"), "{reason}");
    let theirs = other.open_campaign(json!({})).await;
    assert_eq!(other.claim(theirs, "alice").await.status, 201, "claims go on");
    let belongs = "stream COUPONS-0 belongs to deployment coupon";
    wait_until("the projector says so", SOON, async || {
        let log = other.processes[0].log();
        log.lines().any(|line| line.contains("projector starts over") && line.contains(belongs))
    })
    .await;
    let on_it = [("NATS_URL", one.servers.nats_url())];
    let examined = other.coupon_with(&["doctor"], &on_it).await;
    assert_eq!(examined.code, Some(1), "{examined:?}");
    assert!(examined.out.contains("owner of COUPONS-0: another deployment"), "{examined:?}");
    said(&other.coupon_with(&["audit"], &on_it).await, 2, &[belongs]);
    said(&other.coupon_with(&["replay", "--all"], &on_it).await, 1, &[belongs]);
    said(&other.coupon_with(&["rebuild", "wallet"], &on_it).await, 1, &[belongs]);
    said(&other.coupon_with(&["relay", "epoch", "new", "--yes"], &on_it).await, 1, &[belongs]);
    assert_eq!(everything(&one.nats().await).await, before);

    // The first has not noticed.
    one.answered(&one.rush(campaign, 300).run().await).await;
    one.balanced().await;
    let log = one.processes[0].log();
    assert!(!log.contains("relay starts over") && !log.contains("projector starts over"), "{log}");
    gets_its_own_nats(&mut other).await;
    other.assert_published().await;
    fault.healed();
    other.close().await;
    one.close().await;
}

/// It keeps no metadata, so the relay can only compare the messages. The consumer of the first stays as it is.
#[tokio::test]
async fn on_an_old_nats_the_second_one_leaves_the_consumer_alone() {
    let fault = owns("nats-of-another-deployment");
    let one = World::on(Nats::Packaged, &[""]).await;
    one.append_events(3).await;
    one.balanced().await;
    let before = everything(&one.nats().await).await;
    assert!(before.contains_key("COUPONS-0 projections"), "{before:?}");
    let mut other = World::bare(1).await;
    other.migrate().await;
    starts_on_nats_of(&one, &mut other).await;
    fault.fired(1);
    let reason = other.halted().await;
    assert!(reason.contains("another client wrote to the stream"), "{reason}");
    wait_until("the projector says so", SOON, async || {
        let log = other.processes[0].log();
        log.lines()
            .any(|line| line.contains("projector starts over") && line.contains("belongs to deployment"))
    })
    .await;
    assert_eq!(everything(&one.nats().await).await, before);
    one.append_events(3).await;
    one.balanced().await;
    let log = one.processes[0].log();
    assert!(!log.contains("starts over") && !log.contains("metadata"), "{log}");
    gets_its_own_nats(&mut other).await;
    fault.healed();
    other.close().await;
    one.close().await;
}

/// Two databases that were both left with the name of the first deployment.
#[tokio::test]
async fn two_of_one_name_on_a_nats_are_told_apart_by_their_ids() {
    let fault = owns("nats-of-another-deployment");
    let one = World::on(Nats::Newest, &[""]).await;
    one.append_events(3).await;
    one.balanced().await;
    let mut other = World::bare(1).await;
    other.migrate().await;
    starts_on_nats_of(&one, &mut other).await;
    fault.fired(1);
    let reason = other.halted().await;
    let (ours, theirs) = (other.owner().await, one.owner().await);
    assert_eq!((ours.0, theirs.0), ("coupon".to_owned(), "coupon".to_owned()));
    assert!(reason.contains(&ours.1) && reason.contains(&theirs.1), "{reason}");

    // A database that takes the place of the other one takes over its identity.
    let taken_over = format!("UPDATE deployment SET id = '{}'", theirs.1);
    sqlx::raw_sql(&taken_over).execute(&other.pool).await.unwrap();
    other.processes[0].kill();
    other.processes[0].start().await;
    wait_until("it sees what differs", SOON, async || {
        other.halted().await.contains("Begin a new epoch after you have stopped every other writer")
    })
    .await;
    gets_its_own_nats(&mut other).await;
    fault.healed();
    other.close().await;
    one.close().await;
}

/// Its streams are of the version before, which names no owner.
#[tokio::test]
async fn streams_without_an_owner_are_adopted() {
    let fault = owns("stream-without-an-owner");
    let mut world = World::on(Nats::Newest, &[]).await;
    let nats = world.nats().await;
    stream::of_shard(&nats, &OUTLET, SHARD, 1).await.unwrap();
    stream::of_dead(&nats, &OUTLET).await.unwrap();
    stream::of_replays(&nats, &OUTLET).await.unwrap();
    let context = jetstream::new(nats);
    let config = async |name: &str| -> StreamConfig {
        context.get_stream(name).await.unwrap().cached_info().config.clone()
    };
    let names = [STREAM, "COUPONS-DEAD", "COUPONS-REPLAY"];
    let mut before = Vec::new();
    for name in names {
        let config = config(name).await;
        assert!(!config.metadata.contains_key("deployment"), "{config:?}");
        before.push(config);
    }
    fault.fired(1);
    world.add_process("").await;
    let (name, id) = world.owner().await;
    for (stream, before) in names.into_iter().zip(before) {
        let mut now = wait_for("the stream has an owner", SOON, async || {
            Some(config(stream).await).filter(|config| config.metadata.contains_key("deployment"))
        })
        .await;
        assert_eq!(now.metadata.remove("deployment"), Some(name.clone()));
        assert_eq!(now.metadata.remove("deployment-id"), Some(id.clone()));
        assert_eq!(now, before, "all else is as it was");
    }
    world.append_events(3).await;
    world.balanced().await;
    let examined = world.coupon(&["doctor"]).await;
    assert_eq!(examined.code, Some(0), "{examined:?}");
    assert!(examined.out.contains("owner of COUPONS-REPLAY: this deployment"), "{examined:?}");
    said(&world.coupon(&["replay", "--all"]).await, 0, &[]);
    fault.healed();
    world.close().await;
}
