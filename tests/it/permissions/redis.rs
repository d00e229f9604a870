//! What Redis refuses: everything but the gate's commands on the gate's keys.

use std::collections::BTreeSet;
use std::fs;

use coupon_dispatcher::ids::CampaignId;
use redis::aio::MultiplexedConnection;
use redis::{Client, RedisResult, Value, cmd};
use ulid::Ulid;

use super::{ADMINISTRATOR, FOLDER, url_of, with_coupon};
use crate::support::World;

/// From the least to the worst; none of them for a user of the service. `{gate}` is a key of the gate.
const ATTEMPTS: [&str; 19] = [
    "GET other",
    "SET other 1",
    "DEL other",
    "HGET other version",
    "RENAME {gate} other",
    "KEYS *",
    "SCAN 0",
    "DBSIZE",
    "RANDOMKEY",
    "CONFIG GET dir",
    "CONFIG SET maxmemory 0",
    "ACL LIST",
    "CLIENT LIST",
    "INFO",
    "EVAL return(1) 0",
    "SCRIPT FLUSH",
    "PUBLISH channel word",
    "FLUSHDB",
    "FLUSHALL",
];
/// What the files of src/gate/ send; all others are those of the scripts.
const SENT: [&str; 11] = [
    "ping",
    "cluster|slots",
    "hget",
    "hmget",
    "pttl",
    "scard",
    "sscan",
    "zcard",
    "zmscore",
    "evalsha",
    "script|load",
];

#[tokio::test]
async fn the_gate_is_all_that_redis_shows() {
    let (world, campaign) = with_coupon().await;
    let url = world.servers.redis_url();
    let mut administrator = connect(&url_of(ADMINISTRATOR, &url)).await;
    let stray = World::gate(CampaignId(Ulid::nil()), "");
    let attempts = ATTEMPTS.map(|attempt| attempt.replace("{gate}", &stray));
    for name in ["other", &stray] {
        run(&mut administrator, &format!("SET {name} kept")).await.unwrap();
    }
    let keys = run(&mut administrator, "DBSIZE").await.unwrap();
    // A script may do no more than who calls it, whatever keys it names.
    let script = "return redis.call('SET', 'other', 'changed')";
    let load = async |connection: &mut MultiplexedConnection| -> RedisResult<String> {
        cmd("SCRIPT").arg("LOAD").arg(script).query_async(connection).await
    };
    let sha = load(&mut administrator).await.unwrap();
    for user in ["api", "auditor"] {
        let mut connection = connect(&url_of(user, &url)).await;
        for attempt in &attempts {
            refused(user, attempt, run(&mut connection, attempt).await);
        }
        refused(user, script, run(&mut connection, &format!("EVALSHA {sha} 0")).await);
    }
    let mut auditor = connect(&url_of("auditor", &url)).await;
    let gate = World::gate(campaign, "");
    run(&mut auditor, &format!("SCARD {gate}:holders")).await.unwrap();
    refused("auditor", "DEL", run(&mut auditor, &format!("DEL {gate}")).await);
    let nameless = Client::open(format!("redis://127.0.0.1:{}", world.servers.redis.port())).unwrap();
    let mut nameless = nameless.get_multiplexed_async_connection().await.unwrap();
    let refusal = run(&mut nameless, "PING").await.unwrap_err();
    assert_eq!(refusal.code(), Some("NOAUTH"), "{refusal}");
    assert_eq!(run(&mut administrator, "DBSIZE").await.unwrap(), keys);
    assert_eq!(run(&mut administrator, "GET other").await.unwrap(), Value::BulkString(b"kept".into()));

    run(&mut administrator, &format!("EVALSHA {sha} 0")).await.unwrap();
    for attempt in &attempts {
        run(&mut administrator, attempt).await.unwrap_or_else(|error| panic!("{attempt}: {error}"));
    }
    world.close().await;
}

/// No more and no less than what is sent, and what the scripts call.
#[test]
fn the_api_has_the_commands_of_the_gate() {
    let mut used = BTreeSet::from(SENT.map(str::to_owned));
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/lua")).unwrap() {
        let script = fs::read_to_string(entry.unwrap().path()).unwrap();
        let calls = script.split("redis.call('").skip(1);
        used.extend(calls.map(|rest| rest.split('\'').next().unwrap().to_lowercase()));
    }
    let rules = fs::read_to_string(format!("{FOLDER}/redis.acl")).unwrap();
    let api = rules.lines().find(|line| line.starts_with("user api ")).unwrap();
    let granted = api.split(' ').filter_map(|rule| rule.strip_prefix('+'));
    assert_eq!(granted.map(str::to_owned).collect::<BTreeSet<_>>(), used);
}

async fn connect(url: &str) -> MultiplexedConnection {
    Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

async fn run(connection: &mut MultiplexedConnection, command: &str) -> RedisResult<Value> {
    let mut words = command.split(' ');
    let mut command = cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command.query_async(connection).await
}

fn refused(user: &str, attempt: &str, result: RedisResult<Value>) {
    let Err(error) = result else { panic!("{user} may {attempt}") };
    let noperm =
        error.code() == Some("NOPERM") || error.to_string().contains("The user executing the script can't");
    assert!(noperm, "{user} on {attempt}: {error}");
}
