//! Each loss and each return of a server is one line, and so is each change of leadership.

use std::time::Instant;

use serde_json::json;

use super::count;
use crate::support::{SOON, World, wait_until};

/// Longer than every part needs to try its server again, and to fail.
const AWAY_SECONDS: u64 = 6;

async fn set(world: &mut World, server: &str, running: bool) {
    let servers = &mut world.servers;
    match (server, running) {
        ("Redis", false) => servers.redis.kill().await,
        ("Redis", true) => servers.redis.start().await.unwrap(),
        ("NATS", false) => servers.nats.kill().await,
        ("NATS", true) => servers.nats.start().await.unwrap(),
        ("Postgres", false) => servers.postgres.kill().await,
        ("Postgres", true) => servers.postgres.start().await.unwrap(),
        _ => panic!("{server}"),
    }
}

#[tokio::test]
async fn each_loss_and_each_return_of_a_server_is_one_line() {
    let mut world = World::bare(3).await;
    world.migrate().await;
    world.add_process("api").await;
    world.add_process("relay,project").await;
    let campaign = world.open_campaign(json!({})).await;
    world.claim(campaign, "alice").await;
    world.balanced().await;
    // What a process with the API says of a loss and of a return. (Without API tokens a minute later no request passes.)
    let tokens = ["API tokens cannot be read", "API tokens are read again"];
    for (server, lines) in [
        ("Redis", vec![["the gate is lost: claims are refused", "gives seats again"]]),
        ("NATS", vec![["NATS at", "connected to NATS at"]]),
        (
            "Postgres",
            vec![["the writer has lost Postgres", "the writer is connected to Postgres again"], tokens],
        ),
    ] {
        let said = |world: &World, level: &str| -> Vec<String> {
            let log = world.processes[0].log();
            let is_of_a_request = |line: &str| line.contains("request{");
            let ours =
                log.lines().filter(|line| line.contains(level) && line.contains(" coupon_dispatcher::"));
            ours.filter(|line| !is_of_a_request(line)).map(str::to_owned).collect()
        };
        let before = [" WARN ", " INFO "].map(|level| said(&world, level).len());
        set(&mut world, server, false).await;
        let since = Instant::now();
        wait_until("it is away for a while", SOON, async || {
            world.claim(campaign, "bob").await;
            since.elapsed().as_secs() >= AWAY_SECONDS
        })
        .await;
        set(&mut world, server, true).await;
        wait_until("claims are taken", SOON, async || {
            [200, 201, 409].contains(&world.claim(campaign, server).await.status)
        })
        .await;
        world.balanced().await;
        let is_over = async || said(&world, " INFO ").len() >= before[1] + lines.len();
        wait_until(&format!("{server} is there again, and the log says so"), SOON, is_over).await;
        for (place, level) in [" WARN ", " INFO "].into_iter().enumerate() {
            let found = said(&world, level).split_off(before[place]);
            let told = lines
                .iter()
                .filter(|pair| found.iter().filter(|line| line.contains(pair[place])).count() == 1);
            assert_eq!((told.count(), found.len()), (lines.len(), lines.len()), "{server}:{level}{found:#?}");
        }
    }
    // Leaders say that they lead, once a shard, and after each outage that they go on.
    for shard in 0..3 {
        for part in ["the relay leads", "the projector leads"] {
            assert_eq!(count(&world, 1, &["INFO", part, &format!("shard={shard} ")]), 1, "{part} of {shard}");
        }
    }
    assert_eq!(count(&world, 1, &["WARN", "NATS at"]), 1, "{}", world.processes[1].log());
    assert_eq!(count(&world, 1, &["INFO", "connected to NATS at"]), 1, "{}", world.processes[1].log());
    world.close().await;
}
