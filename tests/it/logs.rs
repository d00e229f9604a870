//! The log of a process says which request failed, and by what.

mod failures;
mod json;
mod servers;

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;

use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{Http, SOON, Socket, World, coupon, free_port, wait_until};
use crate::users::signing::{SECRET, by_secret};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// One line of the log has all of these parts.
async fn is_logged(world: &World, parts: &[&str]) {
    let logged = || world.processes[0].log().lines().any(|line| parts.iter().all(|part| line.contains(part)));
    wait_until(&format!("{parts:?} are logged"), SOON, async || logged()).await;
}

/// What a handler logs on the way has the trace of its request too.
#[tokio::test]
async fn what_happens_on_the_way_is_logged_with_the_trace() {
    let world = World::start().await;
    let campaign = world.create_campaign(json!({})).await;
    let path = format!("/v1/campaigns/{campaign}/open");
    assert_eq!(world.api().with("traceparent", TRACEPARENT).post(&path, &json!(null)).await.status, 200);
    is_logged(&world, &["INFO", &format!("trace_id=\"{TRACE}\""), "gate loaded"]).await;
    world.close().await;
}

/// Passwords of the three servers.
const PASSWORDS: [&str; 4] =
    ["hunter2-of-postgres", "hunter2-of-redis", "hunter2-of-nats", "hunter2-of-a-key"];
/// Everything, in one word, and crate by crate.
const FILTERS: [&str; 2] = [
    "trace",
    "coupon_dispatcher=debug,outbox_relay=trace,async_nats=trace,sqlx=trace,sqlx_core=trace,sqlx_postgres=trace,redis=trace,\
     hyper=trace,hyper_util=trace,h2=trace,axum=trace,tower=trace,rustls=trace,tokio=trace,mio=trace,want=trace",
];

/// An environment in which each server's URL has a password, which Postgres demands.
async fn with_passwords(world: &World) -> Vec<(&'static str, String)> {
    let [postgres, redis, nats, key] = PASSWORDS;
    let create = format!("CREATE ROLE secret SUPERUSER LOGIN PASSWORD '{postgres}'");
    sqlx::query(&create).execute(&world.pool).await.unwrap();
    let access = world.servers.postgres.dir().join("pg_hba.conf");
    let lines = fs::read_to_string(&access).unwrap();
    fs::write(&access, format!("host all secret 127.0.0.1/32 scram-sha-256\n{lines}")).unwrap();
    sqlx::query("SELECT pg_reload_conf()").execute(&world.pool).await.unwrap();
    let mut environment = world.environment();
    for (variable, url) in &mut environment {
        match *variable {
            "DATABASE_URL" => {
                *url = url.replace("coupon@", &format!("secret:{postgres}@")) + "?sslpassword=" + key;
            }
            "REDIS_URL" => *url = url.replace("://", &format!("://default:{redis}@")),
            "NATS_URL" => *url = url.replace("://", &format!("://coupon:{nats}@")),
            _ => {}
        }
    }
    environment
}

/// Uses every part of a process, and lets every server be away once. Returns the codes of coupons that it answered.
async fn uses_everything(world: &mut World) -> Vec<String> {
    let campaign = world.open_campaign(json!({ "quantity": 2 })).await;
    let mut codes = Vec::new();
    for user in ["alice", "alice", "bob", "carol"] {
        let answer = world.claim(campaign, user).await.body;
        codes.extend(
            [&answer["code"], &answer["coupon"]["code"]]
                .into_iter()
                .filter_map(Value::as_str)
                .map(str::to_owned),
        );
    }
    assert_eq!(codes.len(), 3);
    let path = format!("/v1/campaigns/{campaign}/coupons");
    // A user who sends a code where it does not belong.
    let misplaced = [
        format!(r#"{{"user_id":"dave","code":"{}"}}"#, codes[0]),
        format!(r#"{{"user_id":{{"code":"{}"}}}}"#, codes[0]),
        codes[0].clone(),
    ];
    for body in misplaced {
        assert_eq!(world.api().send(Method::POST, &path, body).await.status, 422);
    }
    for read in
        [&format!("/v1/coupons/{}", codes[0]), "/v1/campaigns?limit=x", "/v1/users/alice/coupons", "/metrics"]
    {
        world.api().get(read).await;
    }
    world.api().with_token(Some("a-token-for-tests-onlY")).get("/v1/campaigns").await;
    let mut socket = Socket::connect(world.processes[0].address).await;
    socket.say("GET /livez HTTP/1.1\r\nX").await.unwrap();
    drop(socket);
    world.balanced().await;
    world.servers.redis.kill().await;
    world.claim(campaign, "eve").await;
    world.servers.redis.start().await.unwrap();
    world.servers.nats.kill().await;
    world.servers.nats.start().await.unwrap();
    world.servers.postgres.kill().await;
    world.claim(campaign, "eve").await;
    world.servers.postgres.start().await.unwrap();
    wait_until("claims are judged", SOON, async || world.claim(campaign, "eve").await.status == 410).await;
    // A connection that was used less than a second ago is not pinged: the first read may find that it is broken.
    wait_until("campaigns are listed", SOON, async || world.api().get("/v1/campaigns").await.status == 200)
        .await;
    codes
}

#[tokio::test]
async fn no_secret_is_in_the_log_at_any_level_of_any_crate() {
    let mut world = World::bare(1).await;
    world.migrate().await;
    world.admits_users(None);
    let environment = with_passwords(&world).await;
    let mut process = world.process("");
    for (variable, value) in &environment {
        process.set(variable, value);
    }
    world.processes.push(process);
    for filter in FILTERS {
        world.processes[0].set("RUST_LOG", filter);
        world.processes[0].start().await;
        let mut secrets = uses_everything(&mut world).await;
        secrets.extend(PASSWORDS.map(ToOwned::to_owned));
        secrets.push(crate::support::TOKEN.to_owned());

        let made = coupon(&["token", "create", "--name", "shop", "--scope", "read"], &environment).await;
        let token = made.out.trim();
        let listed = world.api().with_token(Some(token)).get("/v1/campaigns").await;
        assert_eq!(listed.status, 200, "{made:?} {listed:?}");
        let (head, secret) = token.rsplit_once('_').unwrap();
        let wrong = format!("{head}_{}", secret.chars().rev().collect::<String>());
        assert_eq!(world.api().with_token(Some(&wrong)).get("/v1/campaigns").await.status, 401);
        secrets.extend([secret.to_owned(), wrong]);
        secrets.push(SECRET.to_owned());
        for (seconds, status) in [(3_600, 200), (-3_600, 401)] {
            let token = by_secret("alice", seconds);
            let api = world.api().with_token(Some(&token));
            assert_eq!(api.get("/v1/users/alice/coupons").await.status, status);
            secrets.push(token.rsplit('.').next().unwrap().to_owned());
        }

        let mut logged =
            vec![("serve".to_owned(), world.processes[0].log()), ("token create".to_owned(), made.err)];
        let mut environment = environment.clone();
        environment.retain(|(variable, _)| *variable != "RUST_LOG");
        environment
            .extend([("RUST_LOG", filter.to_owned()), ("HTTP_ADDR", world.processes[0].address.to_string())]);
        for command in [
            &["migrate"][..],
            &["audit", "--full"],
            &["doctor"],
            &["campaign", "list"],
            &["replay", "--type", "issued"],
            &["dead", "list"],
            &["token", "list"],
            &["relay", "epoch", "list"],
            &["rebuild", "wallet"],
        ] {
            let finished = coupon(command, &environment).await;
            assert!(finished.code.is_some_and(|code| code < 2), "{command:?}: {finished:?}");
            logged.push((command.join(" "), finished.out + &finished.err));
        }
        let ours = &logged[0].1;
        assert!(
            ours.contains("DEBUG") && ours.contains("a connection ended early"),
            "it is not the log of {filter}"
        );
        for (command, log) in &logged {
            for secret in &secrets {
                let line = log.lines().find(|line| line.contains(secret.as_str()));
                assert_eq!(line, None, "{secret} of `coupon {command}` with RUST_LOG={filter}");
            }
        }
        world.processes[0].terminate();
        world.processes[0].ended().await;
    }
    world.processes[0].start().await;
    world.close().await;
}

#[tokio::test]
async fn a_filter_that_is_none_is_refused_and_one_that_names_a_crate_silences_no_other() {
    let world = World::start().await;
    let mut environment = world.environment();
    environment.retain(|(variable, _)| *variable != "RUST_LOG");
    let migrate = async |filter: &str| {
        coupon(&["migrate"], &[&environment[..], &[("RUST_LOG", filter.to_owned())]].concat()).await
    };
    for filter in ["nonsense", "outbox_relay=loud"] {
        let finished = migrate(filter).await;
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.err.contains("RUST_LOG") && finished.err.contains(filter), "{finished:?}");
    }
    for (filter, says) in
        [("", true), ("info", true), ("outbox_relay=debug", true), ("off", false), ("warn", false)]
    {
        let finished = migrate(filter).await;
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert_eq!(finished.err.contains("the schema is up to date"), says, "{filter}: {finished:?}");
    }
    world.close().await;
}

/// A claim that the gate cannot serve has a line with its trace, if the caller records the trace: an outage refuses
/// thousands of claims a second.
#[tokio::test]
async fn a_claim_that_is_refused_for_lack_of_the_gate_is_logged_with_its_sampled_trace() {
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    world.servers.redis.kill().await;
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let claim = async |traceparent| {
        let answer =
            world.api().with("traceparent", traceparent).post(&path, &json!({ "user_id": "alice" })).await;
        assert_eq!((answer.status, answer.problem()), (503, "gate-unavailable"), "{answer:?}");
    };
    claim("00-11111111111111111111111111111111-00f067aa0ba902b7-00").await;
    claim(TRACEPARENT).await;
    is_logged(
        &world,
        &["WARN", &format!("trace_id=\"{TRACE}\""), "a claim is refused", "the gate cannot be reached"],
    )
    .await;
    assert!(!world.processes[0].log().contains("trace_id=\"1111"), "{}", world.processes[0].log());
    world.servers.redis.start().await.unwrap();
    wait_until("claims are taken", SOON, async || world.claim(campaign, "alice").await.status == 201).await;
    world.close().await;
}

/// Lines of the log with all of these parts.
fn count(world: &World, process: usize, parts: &[&str]) -> usize {
    world.processes[process].log().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

/// So many lines of the log have all of these parts, and no more.
async fn are_logged(world: &World, process: usize, parts: &[&str], lines: usize) {
    let logged = async || count(world, process, parts) >= lines;
    wait_until(&format!("{parts:?} are logged {lines} times"), SOON, logged).await;
    assert_eq!(count(world, process, parts), lines, "{parts:?}: {}", world.processes[process].log());
}

#[tokio::test]
async fn a_process_that_takes_over_says_so() {
    let mut world = World::with_processes(&["api", "relay,project"]).await;
    for part in ["the relay leads", "the projector leads"] {
        are_logged(&world, 1, &["INFO", part], 1).await;
    }
    world.add_process("relay,project").await;
    world.processes[1].kill();
    for part in ["the relay leads", "the projector leads"] {
        wait_until(part, SOON, async || count(&world, 2, &["INFO", part]) == 1).await;
    }
    world.close().await;
}

/// Standard error is a pipe that nobody reads: the process serves, and says afterwards what is missing in its log.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_nothing() {
    let world = World::bare(1).await;
    world.migrate().await;
    let port = free_port();
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let mut serve = Command::new(env!("CARGO_BIN_EXE_coupon"));
    serve.arg("serve").envs(world.environment()).env("HTTP_ADDR", address.to_string());
    let mut serve = serve.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let api = Http::new(address);
    let ready = async || api.try_get("/readyz").await.is_some_and(|answer| answer.status == 200);
    wait_until("it serves", SOON, ready).await;
    // Each is a line of the log, and a pipe takes 64 KiB.
    world.execute("ALTER TABLE wallet RENAME TO purse").await;
    for _ in 0..100 {
        let asked = (0..200).map(|_| api.get("/v1/users/alice/coupons"));
        for answer in join_all(asked).await {
            assert_eq!(answer.status, 500);
        }
        assert_eq!(api.get("/livez").await.status, 200);
    }
    world.execute("ALTER TABLE purse RENAME TO wallet").await;
    wait_until("it serves again", SOON, ready).await;
    let mut log = BufReader::new(serve.stderr.take().unwrap()).lines();
    let told = async {
        while let Some(line) = log.next_line().await.unwrap() {
            if line.contains("lines of this log were dropped") {
                return true;
            }
        }
        false
    };
    assert!(timeout(SOON, told).await.expect("the log says what is missing"));
    world.close().await;
}
