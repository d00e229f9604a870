//! Keys behind a URL, under a process that serves: rotation and outages.

use serde_json::json;
use time::Duration;

use super::login::KeyServer;
use super::signing::{Key, by_secret};
use super::{HOUR, refused, user};
use crate::support::{Answer, Clock, SOON, World, owns, wait_until};

/// A world whose process reads its keys from a server that publishes `key`, with a clock of its own.
async fn with_server(key: &Key) -> (World, KeyServer, Clock) {
    let mut world = World::bare(1).await;
    let server = KeyServer::start(&world).await;
    server.publish(key.jwks());
    world.admits_users(Some(server.url.clone()));
    world.set("FAILED_LOGIN_LIMIT", "off"); // tests ask with wrong tokens until something happens
    world.set("JWT_CA", server.authority.display().to_string());
    world.migrate().await;
    let clock = Clock::new(world.folder(), "api");
    let mut process = world.process("");
    for (variable, value) in clock.environment() {
        process.set(variable, &value);
    }
    world.processes.push(process);
    world.processes[0].start().await;
    (world, server, clock)
}

async fn wallet(world: &World, token: &str) -> Answer {
    user(world, token).get("/v1/users/alice/coupons").await
}

#[tokio::test]
async fn a_new_key_is_seen_when_its_first_token_comes() {
    let (first, second) = (Key::new("first"), Key::new("second"));
    let (world, server, clock) = with_server(&first).await;
    let campaign = world.open_campaign(json!({})).await;
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let (old, new) = (first.token("alice"), second.token("alice"));
    // The first request after the start finds the keys.
    assert_eq!(wallet(&world, &old).await.status, 200);
    server.publish(second.jwks());
    refused(&wallet(&world, &new).await, 401, "unauthorized");
    assert_eq!(server.connections(), 1, "at most one fetch in 30 s");
    clock.pass(Duration::seconds(31));
    let coupon = user(&world, &new).post(&path, &json!({})).await;
    assert_eq!((coupon.status, &coupon.body["user_id"]), (201, &json!("alice")), "{coupon:?}");
    assert_eq!(server.connections(), 2);
    // The key that is gone ends what was remembered of its tokens.
    refused(&wallet(&world, &old).await, 401, "unauthorized");
    world.close().await;
}

#[tokio::test]
async fn a_day_without_keys_refuses_their_tokens_and_no_others() {
    let fault = owns("jwks-away");
    let (first, second) = (Key::new("first"), Key::new("second"));
    let (world, server, clock) = with_server(&first).await;
    let (known, unknown) = (first.token("alice"), second.token("alice"));
    assert_eq!(wallet(&world, &known).await.status, 200);
    server.fail();
    for hours in [1, 23] {
        clock.pass(Duration::hours(hours));
        wait_until("a fetch fails", SOON, async || {
            wallet(&world, &unknown).await.status == 401 && server.connections() > 1
        })
        .await;
        // Neither a remembered token nor another one of the key needs the server.
        for token in [&known, &first.token("alice")] {
            wait_until("the last keys stay", SOON, async || wallet(&world, token).await.status == 200).await;
        }
    }
    let readiness = world.api().get("/readyz").await;
    assert!(readiness.body["stalled"].to_string().contains("the keys in JWT_KEYS"), "{readiness:?}");
    let metrics = world.api().get("/metrics").await.text;
    let age = metrics.lines().find_map(|line| line.strip_prefix("jwt_keys_read_age_seconds ")).unwrap();
    assert!(age.parse::<u32>().unwrap() >= 23 * 3_600, "{age}");
    world.processes[0].told("cannot be fetched from JWT_KEYS").await;

    clock.pass(Duration::hours(24) + Duration::minutes(1));
    for token in [&known, &first.token("alice"), &unknown] {
        let answer = wallet(&world, token).await;
        refused(&answer, 503, "credentials-unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    fault.fired(1);
    for token in [by_secret("alice", HOUR), crate::support::TOKEN.to_owned()] {
        wait_until("others are valid", SOON, async || wallet(&world, &token).await.status == 200).await;
    }
    // From here on a second passes with each attempt: that is the recovery, by the clock of the process.
    server.publish(second.jwks());
    let mut seconds = 0;
    wait_until("the new keys are there", SOON, async || {
        seconds += 1;
        clock.pass(Duration::hours(24) + Duration::minutes(1) + Duration::seconds(seconds));
        wallet(&world, &unknown).await.status == 200
    })
    .await;
    println!("jwks-away: the keys are there {seconds} s after the URL has answered again");
    assert!(seconds <= 35, "{seconds} s"); // an attempt each 30 s, and the seconds that one takes here
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_process_that_starts_without_the_keys_serves_everybody_else() {
    let key = Key::new("first");
    let (mut world, server, clock) = with_server(&key).await;
    server.fail();
    world.processes[0].kill();
    world.processes[0].start().await;
    let answer = wallet(&world, &key.token("alice")).await;
    refused(&answer, 503, "credentials-unavailable");
    assert_eq!(wallet(&world, &by_secret("alice", HOUR)).await.status, 200);
    let readiness = world.api().get("/readyz").await;
    assert!(readiness.body["stalled"].to_string().contains("were never fetched"), "{readiness:?}");
    server.publish(key.jwks());
    clock.pass(Duration::seconds(31));
    wait_until("the keys are there", SOON, async || wallet(&world, &key.token("alice")).await.status == 200)
        .await;
    world.close().await;
}
