//! Several servers of NATS in one variable: one that is away is passed over.

use std::net::TcpListener;

use serde_json::json;

use crate::support::{Nats, SOON, World, wait_until};

/// A port where nobody listens.
fn deserted() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_first_server_of_nats_that_is_away_is_passed_over() {
    let mut world = World::bare(1).await;
    let away = format!("nats://127.0.0.1:{}", deserted());
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
