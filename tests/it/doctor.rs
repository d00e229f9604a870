//! The doctor: all is well in a new world, and whatever is not as it should be is found and named.

use async_nats::jetstream::{self, stream};
use coupon_dispatcher::event::OUTLET;
use futures_util::future::try_join_all;
use outbox_relay::Shard;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::support::{Nats, SOON, World, wait_until};

/// What it says, and its exit code.
async fn examined(world: &World) -> (Option<i32>, Value) {
    let finished = world.coupon(&["doctor", "--json"]).await;
    let said = serde_json::from_str(&finished.out).unwrap_or_else(|_| panic!("{finished:?}"));
    (finished.code, said)
}

/// How a check of a server came out.
fn health<'a>(said: &'a Value, server: &str, check: &str) -> &'a str {
    let findings = said["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["server"] == server && finding["check"] == check);
    let finding = finding.unwrap_or_else(|| panic!("{server} {check} is not in {said}"));
    assert_eq!(finding["advice"].is_null(), finding["health"] == "ok", "{finding}");
    finding["health"].as_str().unwrap()
}

async fn tell_redis(world: &World, command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let mut redis = world.redis().await;
    let () = redis::cmd(words[0]).arg(&words[1..]).query_async(&mut redis).await.unwrap();
}

/// On a session of its own, which reads what it has changed.
async fn tell_postgres(world: &World, statements: &[&'static str]) {
    let mut operator = PgConnection::connect(&world.servers.database_url()).await.unwrap();
    for statement in statements {
        sqlx::raw_sql(statement).execute(&mut operator).await.unwrap();
    }
}

#[tokio::test]
async fn all_is_well_in_a_new_world() {
    let world = World::on(Nats::Newest, &[""]).await;
    world.open_campaign(json!({})).await;
    world.balanced().await;
    // The relay creates the stream of dead letters beside its work.
    let is_there = async || health(&examined(&world).await.1, "nats", &OUTLET.dead_stream()) == "ok";
    wait_until("all streams are there", SOON, is_there).await;
    let finished = world.coupon(&["doctor"]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let lines: Vec<&str> = finished.out.lines().collect();
    assert_eq!(*lines.last().unwrap(), format!("0 bad, 0 unknown, 0 warnings, {} ok", lines.len() - 1));
    assert!(lines[..lines.len() - 1].iter().all(|line| line.starts_with("ok ")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("COUPONS-0: as the relay needs it")), "{lines:#?}");
    world.close().await;
}

/// It is served nevertheless.
#[tokio::test]
async fn an_old_nats_is_to_be_known_of() {
    let world = World::on(Nats::Packaged, &[""]).await;
    let (code, said) = examined(&world).await;
    assert_eq!((code, &said["healthy"]), (Some(0), &json!(true)), "{said}");
    assert_eq!(health(&said, "nats", "version"), "warn");
    world.close().await;
}

#[tokio::test]
async fn a_redis_that_would_lose_the_gate_or_takes_no_writes_is_named() {
    let world = World::start().await;
    for (command, check, expected, cure) in [
        (
            "CONFIG SET maxmemory-policy allkeys-lru",
            "maxmemory-policy",
            "bad",
            "CONFIG SET maxmemory-policy noeviction",
        ),
        ("CONFIG SET maxmemory 1", "memory", "bad", "CONFIG SET maxmemory 0"),
        ("CONFIG SET appendonly no", "persistence", "warn", "CONFIG SET appendonly yes"),
        (
            "CONFIG SET lazyfree-lazy-expire no",
            "lazyfree-lazy-expire",
            "warn",
            "CONFIG SET lazyfree-lazy-expire yes",
        ),
        ("REPLICAOF 127.0.0.1 9", "role", "bad", "REPLICAOF NO ONE"),
    ] {
        tell_redis(&world, command).await;
        let (code, said) = examined(&world).await;
        assert_eq!(health(&said, "redis", check), expected, "{command}");
        assert_eq!(code, Some(i32::from(expected == "bad")), "{command}: {said}");
        tell_redis(&world, cure).await;
    }
    let well = async || examined(&world).await.0 == Some(0);
    wait_until("all is well again", SOON, well).await;
    for (value, expected) in [("3600 1", "warn"), ("", "ok")] {
        let set = redis::cmd("CONFIG").arg("SET").arg("save").arg(value).to_owned();
        set.exec_async(&mut world.redis().await).await.unwrap();
        assert_eq!(health(&examined(&world).await.1, "redis", "save"), expected);
    }
    world.close().await;
}

#[tokio::test]
async fn a_postgres_that_would_lose_coupons_is_named() {
    let world = World::start().await;
    // What it was started with on its command line cannot be changed with ALTER SYSTEM: the rest is.
    let off = [
        "ALTER SYSTEM SET full_page_writes = off",
        "ALTER SYSTEM SET autovacuum = off",
        "SELECT pg_reload_conf()",
    ];
    tell_postgres(&world, &off).await;
    let reloaded = async || health(&examined(&world).await.1, "postgres", "full_page_writes") == "bad";
    wait_until("the change is found", SOON, reloaded).await;
    let (code, said) = examined(&world).await;
    assert_eq!((code, health(&said, "postgres", "autovacuum")), (Some(1), "bad"), "{said}");
    tell_postgres(&world, &["ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()"]).await;

    tell_postgres(
        &world,
        &["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"],
    )
    .await;
    let standby = async || health(&examined(&world).await.1, "postgres", "role") == "bad";
    wait_until("that it takes no writes is found", SOON, standby).await;
    let cure =
        ["SET default_transaction_read_only = off", "ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()"];
    tell_postgres(&world, &cure).await;
    let well = async || examined(&world).await.0 == Some(0);
    wait_until("all is well again", SOON, well).await;

    let mut open = PgConnection::connect(&world.servers.database_url()).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT 1").execute(&mut open).await.unwrap();
    let named = async || {
        let finished = world.coupon(&["doctor", "--open-max", "0"]).await;
        assert_eq!(finished.code, Some(0), "{finished:?}");
        finished.out.lines().any(|line| line.starts_with("warn") && line.contains("(idle in transaction)"))
    };
    wait_until("the open transaction is named", SOON, named).await;
    open.close().await.unwrap();

    tell_postgres(&world, &["ALTER TABLE _sqlx_migrations RENAME TO elsewhere"]).await;
    let (code, said) = examined(&world).await;
    assert_eq!((code, health(&said, "postgres", "schema")), (Some(1), "bad"), "{said}");
    tell_postgres(&world, &["ALTER TABLE elsewhere RENAME TO _sqlx_migrations"]).await;
    world.close().await;
}

#[tokio::test]
async fn tokens_that_end_soon_or_that_nobody_uses_are_named() {
    const SOON_TO_END: &str = "API tokens that expire within 7 days";
    const UNUSED: &str = "API tokens not used for 90 days";
    let world = World::bare(1).await;
    world.migrate().await;
    for (name, expires, created, used, revoked) in [
        ("in 6 days", "now() + '6 days'::interval", "now()", "NULL", "NULL"),
        ("in 8 days", "now() + '8 days'::interval", "now()", "NULL", "NULL"),
        ("expired", "now() - '1 day'::interval", "now() - '100 days'::interval", "NULL", "NULL"),
        ("revoked", "now() + '1 day'::interval", "now() - '100 days'::interval", "NULL", "now()"),
        ("never used", "NULL", "now() - '92 days'::interval", "NULL", "NULL"),
        ("not used lately", "NULL", "now() - '200 days'::interval", "now() - '91 days'::interval", "NULL"),
        ("used", "NULL", "now() - '200 days'::interval", "now() - '89 days'::interval", "NULL"),
    ] {
        let insert = format!(
            "INSERT INTO api_tokens (id, name, scopes, expires_at, created_at, last_used_at, revoked_at) \
             VALUES (gen_random_uuid(), '{name}', '{{read}}', {expires}, {created}, {used}, {revoked})"
        );
        world.execute(&insert).await;
    }
    let (code, said) = examined(&world).await;
    assert_eq!((code, health(&said, "postgres", SOON_TO_END)), (Some(0), "warn"), "{said}");
    assert_eq!(health(&said, "postgres", UNUSED), "warn", "{said}");
    let found = |check: &str| {
        let findings = said["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["check"] == check).unwrap();
        let found = finding["found"].as_str().unwrap();
        let names: Vec<_> = found.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        (found.split(':').next().unwrap().to_owned(), names)
    };
    assert_eq!(found(SOON_TO_END), ("1".to_owned(), vec!["in 6 days".to_owned()]));
    assert_eq!(found(UNUSED), ("2".to_owned(), vec!["never used".to_owned(), "not used lately".to_owned()]));

    world.execute("CREATE ROLE plain LOGIN; GRANT pg_read_all_stats TO plain").await;
    let grants =
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain; REVOKE SELECT ON api_tokens FROM plain";
    world.execute(grants).await;
    let as_plain = [("DATABASE_URL", world.servers.database_url().replace("coupon@", "plain@"))];
    let finished = world.coupon_with(&["doctor", "--json"], &as_plain).await;
    let said: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!(health(&said, "postgres", UNUSED), "unknown", "{said}");
    world.close().await;
}

/// A login without `pg_read_all_stats` does not see what the sessions of others are.
#[tokio::test]
async fn connections_of_other_logins_count() {
    let world = World::bare(1).await;
    world.migrate().await;
    let plain = "CREATE ROLE plain LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain";
    tell_postgres(&world, &[plain]).await;
    let url = world.servers.database_url();
    let as_plain = [("DATABASE_URL", url.replace("coupon@", "plain@"))];
    let connections = async || {
        let finished = world.coupon_with(&["doctor", "--json"], &as_plain).await;
        let said: Value = serde_json::from_str(&finished.out).unwrap();
        assert_eq!(health(&said, "postgres", "long transactions"), "unknown", "{said}");
        health(&said, "postgres", "connections").to_owned()
    };
    let few = try_join_all((0..2).map(|_| PgConnection::connect(&url))).await.unwrap();
    assert_eq!(connections().await, "ok");
    let many = try_join_all((0..84).map(|_| PgConnection::connect(&url))).await.unwrap();
    assert_eq!(connections().await, "warn");
    drop((few, many));
    world.close().await;
}

#[tokio::test]
async fn a_postgres_that_does_not_sync_is_named() {
    let mut world = World::start().await;
    let hasty = coupon_dispatcher::servers::Setup {
        arguments: ["-c", "fsync=off", "-c", "min_wal_size=80MB"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    world.servers.postgres.restart_with(hasty).await.unwrap();
    let (code, said) = examined(&world).await;
    assert_eq!((code, health(&said, "postgres", "fsync")), (Some(1), "bad"), "{said}");
    assert_eq!(health(&said, "postgres", "min_wal_size of max_wal_size"), "warn");
    world.close().await;
}

#[tokio::test]
async fn a_stream_that_would_drop_events_is_named() {
    let world = World::start().await;
    world.open_campaign(json!({})).await;
    world.balanced().await;
    let context = jetstream::new(world.nats().await);
    let name = OUTLET.stream_of(Shard(0));
    let made = context.get_stream(&name).await.unwrap().cached_info().config.clone();
    let changed = stream::Config {
        discard: stream::DiscardPolicy::Old,
        max_age: std::time::Duration::from_secs(3_600),
        max_messages: 1,
        ..made.clone()
    };
    context.update_stream(changed).await.unwrap();
    let (code, said) = examined(&world).await;
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(health(&said, "nats", "COUPONS-0 discard"), "bad");
    assert_eq!(health(&said, "nats", "COUPONS-0 max_age"), "bad");
    assert_eq!(health(&said, "nats", "COUPONS-0 messages"), "warn");
    context.update_stream(made).await.unwrap();
    assert_eq!(examined(&world).await.0, Some(0));
    world.close().await;
}

#[tokio::test]
async fn servers_that_are_away_or_hide_something_are_told_apart_from_bad_ones() {
    let mut world = World::start().await;
    world.servers.redis.freeze();
    world.servers.nats.kill().await;
    let (code, said) = examined(&world).await;
    world.servers.redis.thaw();
    world.servers.nats.start().await.unwrap();
    assert_eq!((code, health(&said, "redis", "answers")), (Some(2), "unknown"), "{said}");
    assert_eq!(health(&said, "nats", "answers"), "unknown");
    assert_eq!(health(&said, "postgres", "fsync"), "ok");

    tell_redis(&world, "ACL SETUSER reader on nopass +@all -config").await;
    let url = world.servers.redis_url().replace("redis://", "redis://reader:any@");
    let mut environment = world.environment();
    environment.retain(|(name, _)| *name != "REDIS_URL");
    environment.push(("REDIS_URL", url));
    let finished = crate::support::coupon(&["doctor", "--json"], &environment).await;
    let said: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert_eq!(health(&said, "redis", "lazyfree-lazy-expire"), "unknown");
    assert_eq!(health(&said, "redis", "save"), "unknown");
    assert_eq!(health(&said, "redis", "maxmemory-policy"), "ok");
    world.close().await;
}
