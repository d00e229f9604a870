//! The commands that run to an end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{SOON, TOKEN, World, coupon, draft, wait_until};

#[tokio::test]
async fn a_campaign_is_led_from_a_shell() {
    let world = World::start().await;
    let body = draft(json!({ "name": "From a shell" })).to_string();
    let run = async |arguments: &[&str]| {
        let finished = world.coupon(&[&["campaign"], arguments, &["--json"]].concat()).await;
        assert_eq!(finished.code, Some(0), "{finished:?}");
        serde_json::from_str::<Value>(&finished.out).unwrap()
    };
    let created = run(&["create", &body]).await;
    let id = created["id"].as_str().unwrap();
    assert_eq!((&created["name"], &created["state"]), (&json!("From a shell"), &json!("draft")));
    assert_eq!(run(&["open", id]).await["state"], "open");
    assert_eq!(run(&["show", id]).await["state"], "open");
    assert_eq!(run(&["list"]).await["items"][0]["id"], id);
    assert_eq!(run(&["close", id, "--yes"]).await["state"], "closed");

    let refused = world.coupon(&["campaign", "open", id]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("409") && refused.err.contains("closed"), "{refused:?}");
    let wrong = draft(json!({ "quantity": 0, "currency": "?" })).to_string();
    let refused = world.coupon(&["campaign", "create", &wrong]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("quantity") && refused.err.contains("currency"), "{refused:?}");
    world.close().await;
}

#[tokio::test]
async fn a_campaign_command_without_an_api_says_where_it_looked() {
    let environment = [("ADMIN_TOKEN", TOKEN.to_owned())];
    let finished = coupon(&["campaign", "list", "--url", "http://127.0.0.1:9"], &environment).await;
    assert_eq!(finished.code, Some(8), "{finished:?}");
    assert!(finished.err.contains("http://127.0.0.1:9"), "{finished:?}");
    for once in ["http://127.0.0.1:9", "Connection refused"] {
        assert_eq!(finished.err.matches(once).count(), 1, "{finished:?}");
    }
    for url in ["127.0.0.1:9", "ftp://127.0.0.1:9"] {
        let finished = coupon(&["campaign", "list", "--url", url], &environment).await;
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.err.contains(url), "{finished:?}");
    }
    let finished =
        coupon(&["campaign", "list", "--url", "http://me:hunter2@127.0.0.1:9"], &environment).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.err.contains("ADMIN_TOKEN") && !finished.err.contains("hunter2"), "{finished:?}");
}

#[tokio::test]
async fn wrong_usage_and_configuration_end_with_2_and_say_why() {
    let token = [("ADMIN_TOKEN", TOKEN.to_owned())];
    let short = [("ADMIN_TOKEN", "hunter2".to_owned())];
    for (arguments, environment, why) in [
        (&["campaign", "list"][..], &[][..], "ADMIN_TOKEN is needed"),
        (&["campaign", "list"], &short, "ADMIN_TOKEN must be at least 16"),
        (&["campaign", "create", "{"], &token, "EOF while parsing"),
        (&["rebuild", "wallets"], &[], "[possible values: wallet, settlement]"),
    ] {
        let finished = coupon(arguments, environment).await;
        assert_eq!((finished.code, finished.out.as_str()), (Some(2), ""), "{finished:?}");
        assert!(finished.err.contains(why), "{finished:?}");
    }
    let world = World::start().await;
    for action in ["list", "new"] {
        let finished = world.coupon(&["relay", "epoch", action, "--shard", "9"]).await;
        assert_eq!((finished.code, finished.out.as_str()), (Some(1), ""), "{finished:?}");
        assert!(finished.err.contains("there is no shard 9"), "{finished:?}");
    }
    world.close().await;
}

#[tokio::test]
async fn an_audit_says_balanced_or_names_what_differs() {
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let other = world.open_campaign(json!({})).await;
    let coupon = world.claim(campaign, "alice").await.body["id"].as_str().unwrap().to_owned();
    world.claim(other, "bob").await;
    let audited =
        async |world: &World, arguments: &[&str]| world.coupon(&[&["audit"], arguments].concat()).await;
    wait_until("it is balanced", SOON, async || audited(&world, &["--full"]).await.code == Some(0)).await;
    let finished = audited(&world, &["--full"]).await;
    assert_eq!(finished.out.lines().last(), Some("balanced"));
    let sheet: Value = serde_json::from_str(&audited(&world, &["--json"]).await.out).unwrap();
    assert_eq!(sheet["balanced"], true);
    assert_eq!(sheet["sheet"]["campaigns"].as_array().unwrap().len(), 2);

    sqlx::query("CREATE TABLE kept AS SELECT * FROM wallet WHERE user_id = 'alice'")
        .execute(&world.pool)
        .await
        .unwrap();
    sqlx::query("DELETE FROM wallet WHERE user_id = 'alice'").execute(&world.pool).await.unwrap();
    let finished = audited(&world, &["--full"]).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.out.contains("not balanced") && finished.out.contains(&coupon), "{finished:?}");
    assert_eq!(audited(&world, &["--full", "--campaign", &campaign.to_string()]).await.code, Some(1));
    assert_eq!(audited(&world, &["--full", "--campaign", &other.to_string()]).await.code, Some(0));
    sqlx::query("INSERT INTO wallet SELECT * FROM kept").execute(&world.pool).await.unwrap();
    assert_eq!(audited(&world, &["--full", "--json"]).await.code, Some(0));

    world.servers.redis.kill().await;
    let finished = audited(&world, &[]).await;
    assert_eq!(finished.code, Some(2), "{finished:?}");
    world.servers.redis.start().await.unwrap();
    world.servers.nats.kill().await;
    let finished = audited(&world, &[]).await;
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.err.contains(&world.servers.nats_url()), "{finished:?}");
    world.servers.nats.start().await.unwrap();
    world.close().await;
}

#[tokio::test]
async fn migrations_can_be_applied_again() {
    let mut world = World::bare(2).await;
    for _ in 0..2 {
        let finished = world.coupon(&["migrate"]).await;
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }
    world.add_process("").await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    assert_eq!(world.coupon(&["migrate"]).await.code, Some(0));
    world.close().await;
}

/// As in `coupon audit | head -0`.
#[tokio::test]
async fn a_command_whose_output_nobody_reads_fails_without_a_panic() {
    let world = World::start().await;
    for command in [&["audit"][..], &["dead", "list", "--json"], &["replay", "--dry-run"], &["doctor"]] {
        let mut running = world.start_coupon(command);
        running.hang_up();
        let finished = running.finished().await;
        assert_eq!(finished.code.filter(|code| [1, 2].contains(code)), finished.code, "{finished:?}");
        assert!(!finished.err.contains("Broken pipe") && !finished.err.contains("panicked"), "{finished:?}");
    }
    world.close().await;
}

/// A replay never begins by mistake: without a selection, with one that cannot be, or with one that holds nothing.
#[tokio::test]
async fn a_replay_of_nothing_or_of_everything_by_mistake_does_not_begin() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await.to_string();
    world.balanced().await;
    let unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    for (arguments, code, why) in [
        (&[][..], 2, "--all"),
        (&["--rate", "1"], 2, "--all"),
        (&["--all", "--type", "issued"], 2, "--all"),
        (&["--from", "0"], 2, "--from"),
        (&["--from", "2", "--to", "1"], 2, "no position is in this range"),
        (
            &["--since", "2026-11-20T18:00:00Z", "--until", "2026-11-20T18:00:00Z"],
            2,
            "no time is in this range",
        ),
        (&["--campaign", unknown], 5, &format!("no campaign has the id {unknown}")),
        (&["--campaign", &campaign, "--user", "nobody"], 5, "no event in the outbox matches"),
        (&["--from", "9999"], 5, "no event in the outbox matches"),
        (&["--from", "9999", "--dry-run"], 5, "no event in the outbox matches"),
    ] {
        let finished = world.coupon(&[&["replay"], arguments].concat()).await;
        assert_eq!(finished.code, Some(code), "{arguments:?}: {finished:?}");
        assert!(finished.err.contains(why), "{arguments:?}: {finished:?}");
    }
    let listed = world.coupon(&["replay", "--list", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&listed.out).unwrap(), json!({ "items": [], "next": null }));
    assert_eq!(world.coupon(&["replay", "--all"]).await.code, Some(0));
    world.close().await;
}

#[tokio::test]
async fn a_temporary_folder_whose_path_is_too_long_is_named_at_once() {
    let world = World::bare(1).await;
    world.migrate().await;
    let folder = world.folder().join("f".repeat(100));
    std::fs::create_dir(&folder).unwrap();
    let environment =
        [("TMPDIR", folder.to_str().unwrap().to_owned()), ("PATH", std::env::var("PATH").unwrap())];
    let asked = Instant::now();
    let finished = coupon(&["demo", "--coupons", "1", "--users", "1"], &environment).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.err.contains("set TMPDIR to a shorter path"), "{finished:?}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "something is left");
    world.close().await;
}

/// What a command says of a server that is away: which one, where, and each cause once.
#[tokio::test]
async fn an_error_names_the_server_and_says_each_cause_once() {
    let mut world = World::start().await;
    world.claim(world.open_campaign(json!({})).await, "alice").await;
    world.balanced().await;
    for server in ["Postgres", "Redis", "NATS"] {
        let port = match server {
            "Postgres" => &mut world.servers.postgres,
            "Redis" => &mut world.servers.redis,
            _ => &mut world.servers.nats,
        };
        port.kill().await;
        let address = format!("127.0.0.1:{}", port.port());
        let finished = world.coupon(&["audit"]).await;
        assert_eq!(finished.code, Some(2), "{finished:?}");
        for once in [server, &address, "Connection refused"] {
            assert_eq!(finished.err.matches(once).count(), 1, "{once}: {finished:?}");
        }
        match server {
            "Postgres" => world.servers.postgres.start().await.unwrap(),
            "Redis" => world.servers.redis.start().await.unwrap(),
            _ => world.servers.nats.start().await.unwrap(),
        }
    }
    world.close().await;
}
