//! The table of logins in the documents: each role and command does its work with them.

use std::fs;

use coupon_dispatcher::event::OUTLET;
use outbox_relay::stream;

use super::{database_url, url_of, with_coupon};
use crate::support::{Finished, SOON, World, coupon, wait_until};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/how-to/least-privilege.md");
const TABLE: &str = "| Process or command | Postgres | NATS | Redis |\n|---|---|---|---|\n";
/// The logins with which `with_coupon` starts each process.
const PROCESSES: [(&str, [&str; 3]); 3] = [
    ("coupon serve --roles api", ["coupon_api", "api", "api"]),
    ("coupon serve --roles relay", ["coupon_relay", "relay", "none"]),
    ("coupon serve --roles project", ["coupon_projector", "projector", "auditor"]),
];
/// What a command needs besides the words in the table, and what it says then.
const COMMANDS: [(&str, &[&str], &str); 12] = [
    ("coupon migrate", &[], ""),
    ("coupon token list", &[], ""),
    ("coupon status", &[], ""),
    ("coupon audit", &["--full"], "not balanced"),
    ("coupon doctor", &[], "0 bad, 0 unknown"),
    ("coupon replay", &["--all", "--run", "again"], "done"),
    ("coupon replay --cancel", &["again", "--yes"], "removed"),
    ("coupon dead list", &[], "poison"),
    ("coupon dead drop", &["wallet", "3", "--yes"], ""),
    ("coupon relay epoch list", &[], ""),
    ("coupon relay epoch new", &["--yes"], "is not halted: no new epoch is needed"),
    ("coupon rebuild", &["wallet"], "balanced"),
];

/// Each row: the command, and the logins at Postgres, NATS and Redis; of a login what is in backticks, or its words.
fn rows() -> Vec<(String, [String; 3])> {
    let text = fs::read_to_string(DOCUMENT).unwrap();
    let rows = text.split_once(TABLE).unwrap().1.lines().take_while(|line| line.starts_with("| "));
    let word = |cell: &str| cell.split('`').nth(1).unwrap_or(cell.trim_matches(['|', ' '])).to_owned();
    rows.map(|row| {
        let mut cells = row.split(" | ").map(word);
        (cells.next().unwrap(), std::array::from_fn(|_| cells.next().unwrap()))
    })
    .collect()
}

async fn run(world: &World, command: &str, more: &[&str], logins: &[String; 3]) -> Finished {
    let [postgres, nats, redis] = logins;
    let database = match postgres.strip_prefix("coupon_") {
        Some(role) => database_url(world, role),
        None => world.servers.database_url().replace("coupon@", "owner@"),
    };
    let or_none =
        |login: &String, url: String| if login == "none" { String::new() } else { url_of(login, &url) };
    let mut environment = world.environment();
    environment.extend([
        ("DATABASE_URL", database),
        ("NATS_URL", or_none(nats, world.servers.nats_url())),
        ("REDIS_URL", or_none(redis, world.servers.redis_url())),
    ]);
    let words: Vec<&str> = command.split(' ').skip(1).chain(more.iter().copied()).collect();
    coupon(&words, &environment).await
}

#[tokio::test]
async fn each_role_and_command_gets_by_with_the_logins_of_the_table() {
    let (world, campaign) = with_coupon().await;
    let mut rows = rows();
    let commands = rows.split_off(PROCESSES.len());
    for ((command, logins), (known, of_process)) in rows.iter().zip(PROCESSES) {
        assert_eq!((command.as_str(), logins.each_ref().map(String::as_str)), (known, of_process));
    }
    world.execute("GRANT pg_read_all_stats TO coupon_reader").await;
    let logins = &commands.iter().find(|(command, _)| command == "coupon replay").unwrap().1;
    let refused = run(&world, "coupon replay", &["--all"], logins).await;
    let why = "stream COUPONS-REPLAY: it does not exist and was not created";
    assert!(refused.code == Some(1) && refused.err.contains(why), "{refused:?}");
    assert!(!refused.err.contains("starts over"), "another attempt has the same rights: {refused:?}");
    stream::of_replays(&world.nats().await, &OUTLET).await.unwrap();
    world.execute("ALTER TABLE wallet ADD CONSTRAINT poison CHECK (user_id <> 'mallory')").await;
    assert_eq!(world.claim(campaign, "mallory").await.status, 201);
    wait_until("the event is parked", SOON, async || world.dead_letters().await.len() == 1).await;

    assert_eq!(commands.len(), COMMANDS.len());
    for ((command, logins), (known, more, says)) in commands.iter().zip(COMMANDS) {
        assert_eq!(command, known);
        if command == "coupon rebuild" {
            world.execute("ALTER TABLE wallet DROP CONSTRAINT poison").await;
        }
        let finished = run(&world, command, more, logins).await;
        let said = format!("{}{}", finished.out, finished.err);
        assert!(said.contains(says) && (!says.is_empty() || finished.code == Some(0)), "{finished:?}");
    }
    world.balanced().await;
    world.close().await;
}
