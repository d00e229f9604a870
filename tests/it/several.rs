//! Several servers of NATS in one variable: one that is away is passed over.

use outbox_relay::Shard;
use serde_json::json;

use crate::support::subscriber::{coupons, issued, subscriber, until};
use crate::support::{Nats, Process, SOON, World, free_port, newest_nats_server, wait_until};

#[tokio::test]
async fn a_first_server_of_nats_that_is_away_is_passed_over() {
    let mut world = World::bare(1).await;
    let away = format!("nats://127.0.0.1:{}", free_port());
    world.set("NATS_URL", format!("{away},{}", world.servers.nats_url()));
    world.migrate().await;
    world.add_process("").await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.assert_published().await;
    let up = async || world.api().get("/readyz").await.body["nats"] == "up";
    wait_until("NATS is up", SOON, up).await;
    let doctor = world.coupon(&["doctor"]).await;
    assert!(doctor.out.contains("COUPONS-0: as the relay needs it"), "{doctor:?}");
    world.servers.nats.kill().await;
    let named = async || {
        let log = world.processes[0].log();
        log.lines().any(|line| line.contains(&away) && line.contains(&world.servers.nats_url()))
    };
    wait_until("the log names both", SOON, named).await;
    let doctor = world.coupon(&["doctor"]).await;
    assert!(doctor.out.contains(&format!("NATS at {away}, {}", world.servers.nats_url())), "{doctor:?}");
    world.servers.nats.start().await.unwrap();
    world.close().await;
}

#[tokio::test]
async fn events_are_published_though_one_of_three_servers_is_killed() {
    let mut world = World::on(Nats::NewestCluster, &[]).await;
    let others = world.nats().await.server_info().connect_urls;
    let own = world.servers.nats.port();
    let others = others.iter().filter(|address| !address.ends_with(&format!(":{own}")));
    let others: Vec<String> = others.map(|address| format!("nats://{address}")).collect();
    assert_eq!(others.len(), 2, "{others:?}");
    world.set("NATS_URL", format!("{},{}", world.servers.nats_url(), others.join(",")));
    world.add_process("").await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.assert_published().await;
    world.servers.nats.kill().await;
    assert_eq!(world.claim(campaign, "bob").await.status, 201);
    world.close().await;
}

/// The one that is left has `JetStream`, which serves nothing without a majority.
#[tokio::test]
async fn the_doctor_tells_a_cluster_without_a_majority_from_a_server_without_jetstream() {
    let mut world = World::on(Nats::NewestCluster, &[]).await;
    world.processes.iter_mut().for_each(Process::kill);
    let jetstream = async |world: &World, url: &str| {
        let doctor = world.coupon_with(&["doctor"], &[("NATS_URL", url.to_owned())]).await;
        let line = doctor.out.lines().find(|line| line.contains("nats     JetStream: "));
        line.unwrap_or_default().to_owned()
    };
    wait_until("the doctor says what is missing", SOON, async || {
        let line = jetstream(&world, &world.servers.nats_url()).await;
        assert!(!line.contains("Enable JetStream"), "{line}");
        line.starts_with("bad ") && line.contains("Start the servers that are away")
    })
    .await;
    world.processes.iter_mut().for_each(Process::launch);

    let (port, program) = (free_port().to_string(), newest_nats_server());
    let command = [program.to_str().unwrap(), "-a", "127.0.0.1", "-p", &port];
    let mut without = world.program("nats-without-jetstream", &command);
    without.launch();
    wait_until("NATS is ready", SOON, async || without.log().contains("Server is ready")).await;
    let line = jetstream(&world, &format!("nats://127.0.0.1:{port}")).await;
    assert!(line.starts_with("bad ") && line.contains("Enable JetStream"), "{line}");
    world.close().await;
}

/// As the service reads the variable: one that is away is passed over, and one login is used for all.
#[tokio::test]
async fn the_example_of_a_subscriber_takes_several_servers() {
    let world = World::with_processes(&[""]).await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.balanced().await;
    let head = world.outbox(Shard(0)).await.len() as i64;
    let database = world.folder().join("loyalty.db");
    let mut reader = subscriber(&world, &["COUPONS-0", "loyalty", database.to_str().unwrap()]);
    let servers = format!("nats://us%2Cer:p,w@127.0.0.1:{}, {}", free_port(), world.servers.nats_url());
    reader.set("NATS_URL", &servers);
    until(&mut reader, head).await;
    assert_eq!(coupons(&database).await, issued(&world).await);
    for urls in ["nats://one,two", "one", "nats://one,http://two"] {
        let mut refused = subscriber(&world, &["COUPONS-0", "loyalty", database.to_str().unwrap()]);
        refused.set("NATS_URL", urls);
        refused.launch();
        assert_eq!(refused.ended().await.code(), Some(1), "{}", refused.log());
        assert!(
            refused.log().ends_with("NATS_URL must be URLs that start with nats:// or tls://\n"),
            "{}",
            refused.log()
        );
    }
    world.close().await;
}

#[tokio::test]
async fn every_problem_of_a_list_is_told_and_no_login() {
    let world = World::bare(1).await;
    for (urls, problem) in [
        ("nats://a:hunter2@one,two", "NATS_URL must start each of its URLs with nats:// or tls://"),
        ("nats://a:hunter2@one,http://two", "NATS_URL must be a URL that starts with nats:// or tls://"),
        ("nats://a:hunter2@one,nats://two:port", "NATS_URL cannot be read as a URL of NATS"),
        ("nats://a:hunter2@one,nats://b:hunter2@two", "NATS_URL has different logins"),
    ] {
        let redis = "redis://:hunter2@one,redis://two:port";
        let variables = [("NATS_URL", urls.to_owned()), ("REDIS_URL", redis.to_owned())];
        let finished = world.coupon_with(&["audit"], &variables).await;
        assert_eq!((finished.code, &*finished.out), (Some(2), ""), "{finished:?}");
        for words in [problem, "REDIS_URL cannot be read as a URL of Redis"] {
            assert!(finished.err.contains(words), "{words}: {finished:?}");
        }
        assert!(!finished.err.contains("hunter2"), "{finished:?}");
    }
    world.migrate().await;
    world.close().await;
}
