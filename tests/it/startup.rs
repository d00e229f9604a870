//! How a process starts, and why it does not.

use std::net::TcpListener;

use serde_json::json;

use crate::support::{SOON, World, coupon, wait_until};

#[tokio::test]
async fn a_wrong_configuration_is_told_at_once_and_whole() {
    let environment = [
        ("DATABASE_URL", "mysql://somewhere".to_owned()),
        ("NATS_URL", String::new()),
        ("HTTP_ADDR", "8080".to_owned()),
        ("SHARDS", "none".to_owned()),
        ("ADMIN_TOKEN", "hunter2".to_owned()),
    ];
    // The URL of a server that a command does not use may be missing.
    let (all, events, postgres) = (&["REDIS_URL", "NATS_URL"][..], &["NATS_URL"][..], &[][..]);
    for (command, needs) in [
        (&["serve"][..], all),
        (&["serve", "--roles", "relay,api"], all),
        (&["serve", "--roles", "project"], all),
        (&["serve", "--roles", "relay"], events),
        (&["audit"], all),
        (&["doctor"], all),
        (&["rebuild", "wallet"], all),
        (&["status"], events),
        (&["dead", "list"], events),
        (&["replay", "--list"], events),
        (&["relay", "epoch", "list"], events),
        (&["migrate"], postgres),
        (&["token", "list"], postgres),
    ] {
        let finished = coupon(command, &environment).await;
        assert_eq!(finished.code, Some(2), "{finished:?}");
        for variable in ["DATABASE_URL", "HTTP_ADDR", "SHARDS", "ADMIN_TOKEN"] {
            assert!(finished.err.contains(variable), "{variable}: {finished:?}");
        }
        for variable in all {
            assert_eq!(finished.err.contains(variable), needs.contains(variable), "{variable}: {finished:?}");
        }
        assert!(!finished.err.contains("hunter2") && finished.out.is_empty(), "{finished:?}");
    }
    let filter =
        [&environment[..], &[("RUST_LOG", "nonsense".to_owned()), ("LOG_FORMAT", "xml".to_owned())]].concat();
    for (arguments, variables) in [
        (
            &["serve"][..],
            &["RUST_LOG", "LOG_FORMAT", "DATABASE_URL", "REDIS_URL", "SHARDS", "ADMIN_TOKEN"][..],
        ),
        (&["campaign", "list"], &["RUST_LOG", "LOG_FORMAT", "ADMIN_TOKEN"]),
    ] {
        let finished = coupon(arguments, &filter).await;
        assert_eq!(finished.code, Some(2), "{finished:?}");
        for variable in variables {
            assert_eq!(finished.err.matches(variable).count(), 1, "{variable}: {finished:?}");
        }
    }
    let finished = coupon(&["serve", "--roles", "api,cook"], &environment).await;
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.err.contains("cook"), "{finished:?}");
}

#[tokio::test]
async fn an_old_schema_is_refused() {
    let mut world = World::bare(1).await;
    let refused = async |world: &World| {
        let finished = coupon(&["serve"], &world.environment()).await;
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.err.contains("run `coupon migrate`"), "{finished:?}");
    };
    refused(&world).await;
    world.migrate().await;
    let applied = async |word: bool| {
        let newest = "UPDATE _sqlx_migrations SET success = $1 \
                      WHERE version = (SELECT max(version) FROM _sqlx_migrations)";
        sqlx::query(newest).bind(word).execute(&world.pool).await.unwrap();
    };
    applied(false).await;
    refused(&world).await;
    applied(true).await;
    let function = async |statement: &'static str| {
        sqlx::query(statement).execute(&world.pool).await.unwrap();
    };
    function("DELETE FROM schema_functions WHERE name = 'issue_batch'").await;
    refused(&world).await;
    world.migrate().await;
    // A later version's.
    function("UPDATE schema_functions SET revision = revision + 1, hash = 'later'").await;
    world.add_process("").await;
    world.close().await;
}

#[tokio::test]
async fn another_number_of_shards_is_refused() {
    let world = World::start().await;
    for command in ["serve", "migrate", "audit"] {
        let mut environment = world.environment();
        environment.retain(|(name, _)| *name != "SHARDS");
        environment.extend([("SHARDS", "4".to_owned()), ("HTTP_ADDR", "127.0.0.1:0".to_owned())]);
        let finished = coupon(&[command], &environment).await;
        let code = if command == "audit" { 2 } else { 1 };
        assert_eq!(finished.code, Some(code), "{finished:?}");
        assert!(finished.err.contains("1 shards") && finished.err.contains("SHARDS says 4"), "{finished:?}");
    }
    world.close().await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let world = World::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut environment = world.environment();
    environment.push(("HTTP_ADDR", address.clone()));
    let finished = coupon(&["serve"], &environment).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.err.contains(&address), "{finished:?}");
    world.close().await;
}

/// Starts a process while a server is away; when it has named the server, the server comes.
async fn waits_for(server: &str, variable: &'static str) {
    let mut world = World::bare(1).await;
    world.migrate().await;
    let url = match server {
        "Postgres" => world.servers.database_url().replace("coupon@", "coupon:hunter2@"),
        "Redis" => world.servers.redis_url().replace("://", "://default:hunter2@"),
        _ => world.servers.nats_url().replace("://", "://coupon:hunter2@"),
    };
    match server {
        "Postgres" => world.servers.postgres.kill().await,
        "Redis" => world.servers.redis.kill().await,
        _ => world.servers.nats.kill().await,
    }
    let mut process = world.process("");
    process.set(variable, &url);
    process.launch();
    world.processes.push(process);
    let (_, host) = url.rsplit_once('@').unwrap();
    let log = || world.processes[0].log();
    let named = async || log().lines().any(|line| line.contains(server) && line.contains(host));
    wait_until("the server is named", SOON, named).await;
    assert!(!log().contains("hunter2"), "a password in the log");

    world.servers.postgres.start().await.unwrap();
    world.servers.redis.start().await.unwrap();
    world.servers.nats.start().await.unwrap();
    world.processes[0].ready().await;
    let campaign = world.open_campaign(json!({})).await;
    let won = async || world.claim(campaign, "alice").await.status == 201;
    wait_until("claims are taken", SOON, won).await;
    world.close().await;
}

#[tokio::test]
async fn a_postgres_that_is_not_there_is_named_and_waited_for() {
    waits_for("Postgres", "DATABASE_URL").await;
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_named_and_waited_for() {
    waits_for("Redis", "REDIS_URL").await;
}

#[tokio::test]
async fn a_nats_that_is_not_there_is_named_and_waited_for() {
    waits_for("NATS", "NATS_URL").await;
}
