//! Each loss and each return of a server is one line of a process, whatever its roles; and so is each change of leadership.

use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{SOON, World, wait_until};

/// Longer than every part needs to try its server again, and to fail.
const AWAY_SECONDS: u64 = 6;

/// With its session at Postgres a leader loses its shard. Each says so when it has it again.
const LEADERS: &[&str] = &["the relay leads", "the projector leads"];

async fn set(world: &mut World, server: &str, running: bool) {
    let servers = &mut world.servers;
    match (server, running) {
        ("Redis", false) => servers.redis.kill().await,
        ("Redis", true) => servers.redis.start().await.unwrap(),
        ("NATS", false) => servers.nats.kill().await,
        ("NATS", true) => servers.nats.start().await.unwrap(),
        // At once, which Postgres tells each client beside its answers.
        ("Postgres", false) => {
            let pid = Pid::from_raw(servers.postgres.pid().unwrap().cast_signed()).unwrap();
            kill_process(pid, Signal::QUIT).unwrap();
            servers.postgres.stop().await;
        }
        ("Postgres", true) => servers.postgres.start().await.unwrap(),
        _ => panic!("{server}"),
    }
}

/// What a log says at these two levels, whichever crate says it; not of single requests and their seats.
fn warnings_and_news(log: &str) -> [Vec<String>; 2] {
    let is_of_a_request = |line: &str| line.contains("request{") || line.contains("seats are back on sale");
    [" WARN ", " INFO "].map(|level| {
        let lines = log.lines().filter(|line| line.contains(level) && !is_of_a_request(line));
        lines.map(str::to_owned).collect()
    })
}

/// In one process with all roles, and in two, where the second meets Redis in its audit alone.
#[tokio::test]
async fn each_loss_and_each_return_of_a_server_is_one_line() {
    let mut wrong = Vec::new();
    for cut in [&["api,relay,project"][..], &["api", "relay,project"]] {
        let mut world = World::bare(3).await;
        world.set("RUST_LOG", "");
        world.migrate().await;
        for roles in cut {
            world.add_process(roles).await;
        }
        let campaign = world.open_campaign(json!({})).await;
        world.claim(campaign, "alice").await;
        world.balanced().await;
        for (server, told) in [
            ("Postgres", ["the connection to Postgres is lost", "connected to Postgres again"]),
            ("NATS", ["NATS at", "connected to NATS at"]),
            ("Redis", ["the gate is lost: claims are refused", "gives seats again"]),
        ] {
            let before: Vec<usize> = world.processes.iter().map(|process| process.log().len()).collect();
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
            for (number, roles) in cut.iter().enumerate() {
                if server == "Redis" && !roles.contains("api") {
                    continue;
                }
                let said = || warnings_and_news(&world.processes[number].log()[before[number]..]);
                let leaders = if server == "Postgres" && roles.contains("relay") { LEADERS } else { &[] };
                let is_over = async || said()[1].len() > leaders.len() * 3;
                wait_until(&format!("{server} is there again, and {roles} says so"), SOON, is_over).await;
                let [warnings, mut news] = said();
                for leader in leaders {
                    let led = news.extract_if(.., |line| line.contains(leader)).count();
                    wrong.extend((led != 3).then(|| format!("{roles}, {server}: {led} times {leader}")));
                }
                for (found, told) in [warnings, news].into_iter().zip(told) {
                    let is_one = found.len() == 1 && found[0].contains(told);
                    wrong.extend((!is_one).then(|| format!("{roles}, {server}: {found:#?}")));
                }
            }
        }
        world.close().await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
