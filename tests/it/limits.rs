//! Limits of requests: what is beyond them is refused and told when to come back, and nobody else notices.
//!
//! Buckets get one a second here, which is the least: so a bucket has given its burst, and as many more as seconds have
//! passed.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::problems::is_as_ever;
use crate::support::contract::assert_described;
use crate::support::{Answer, Http, SOON, TOKEN, World, wait_for};
use crate::users::signing::by_secret;

const CAMPAIGNS: &str = "/v1/campaigns";
/// Requests at once from a full bucket.
const BURST: u64 = 3;
/// As a variable has it.
const LIMIT: &str = "1/3";
/// Requests of a test that are to meet a limit: far more than a slow machine lets come back meanwhile.
const MANY: u64 = 60;

/// A world of one process with these variables.
async fn limited(variables: &[(&'static str, &str)]) -> World {
    let mut world = World::bare(1).await;
    world.migrate().await;
    for (name, value) in variables {
        world.set(name, *value);
    }
    world.add_process("").await;
    world
}

/// An API behind a proxy that says this of the client.
fn behind(api: &Http, forwarded: String) -> Http {
    api.with("x-forwarded-for", forwarded.leak())
}

/// An answer beyond a limit: the seconds that it says to wait.
fn told(answer: &Answer, path: &str, name: &str) -> u64 {
    assert_eq!((answer.status, answer.problem()), (429, "too-many-requests"), "{answer:?}");
    assert_described("GET", path, answer);
    let seconds = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(seconds >= 1, "{answer:?}");
    let fields = ["ratelimit", "ratelimit-policy"].map(|field| answer.header(field).unwrap());
    assert_eq!(fields, [format!("\"{name}\";r=0;t={seconds}"), format!("\"{name}\";q=3;w=3")]);
    seconds
}

/// The statuses of many requests, one after the other, and the most that a bucket gave meanwhile.
async fn statuses(mut ask: impl AsyncFnMut(u64) -> Answer) -> (Vec<u16>, u64) {
    let begun = Instant::now();
    let mut statuses = Vec::new();
    for number in 0..MANY {
        statuses.push(ask(number).await.status);
    }
    (statuses, BURST + begun.elapsed().as_secs())
}

/// One bucket admitted the requests with this status, and no other had this one.
fn one_bucket((statuses, most): (Vec<u16>, u64), admitted: u16) {
    let count = |wanted| statuses.iter().filter(|status| **status == wanted).count() as u64;
    assert_eq!(count(admitted) + count(429), MANY, "{statuses:?}");
    assert!((BURST..=most).contains(&count(admitted)), "{most} at most: {statuses:?}");
}

#[tokio::test]
async fn a_burst_is_admitted_and_then_refused_until_the_time_that_is_told() {
    let world = limited(&[("RATE_LIMIT_PER_PRINCIPAL", LIMIT)]).await;
    let api = world.api().with_token(Some(&world.token(&["--scope", "read"]).await));
    let begun = Instant::now();
    let mut admitted = 0;
    let (refused, told_at) = loop {
        let answer = api.get(CAMPAIGNS).await;
        if answer.status != 200 {
            break (answer, Instant::now());
        }
        admitted += 1;
        assert!(admitted < MANY, "no limit");
    };
    assert!(admitted >= BURST, "{admitted}");
    is_as_ever("too-many-requests", &refused);
    let due = told_at + Duration::from_secs(told(&refused, CAMPAIGNS, "principal"));
    wait_for("a request is admitted again", SOON, async || {
        let asked = Instant::now();
        let answer = api.get(CAMPAIGNS).await;
        if answer.status != 200 {
            assert!(asked < due, "refused after the time that was told: {answer:?}");
            told(&answer, CAMPAIGNS, "principal");
        }
        (answer.status == 200).then_some(())
    })
    .await;
    assert!(begun.elapsed() >= Duration::from_secs(admitted + 1 - BURST), "admitted too early");
    world.close().await;
}

/// Tokens, end users and the administrator each have a bucket of their own, in each process.
#[tokio::test]
async fn principals_do_not_disturb_each_other() {
    let mut world = World::bare(1).await;
    world.admits_users(None);
    world.migrate().await;
    world.set("RATE_LIMIT_PER_PRINCIPAL", LIMIT);
    world.add_process("").await;
    world.add_process("api").await;
    let path = "/v1/users/alice/coupons";
    let (shop, other) = (world.token(&["--scope", "read"]).await, world.token(&["--scope", "read"]).await);
    for token in [&*shop, &other, TOKEN, &by_secret("alice", 3_600), &by_secret("bob", 3_600)] {
        for process in &world.processes {
            let api = process.http().with_token(Some(token));
            let own = if api.get(path).await.status == 404 { 404 } else { 200 }; // what is another's
            assert_eq!((api.get(path).await.status, api.get(path).await.status), (own, own));
        }
    }
    // Another token of the same user is the same principal.
    let (alice, again) = (by_secret("alice", 3_600), by_secret("alice", 7_200));
    let apis = [&alice, &again].map(|token| world.api().with_token(Some(token)));
    let seen = statuses(async |number| apis[usize::from(number % 2 == 1)].get(path).await).await;
    let refused: u32 = seen.0.iter().map(|status| u32::from(*status == 429)).sum();
    assert!(refused > 0, "{seen:?}");
    world.measures(0, "requests_limited_total{limit=\"principal\"}", refused.into()).await;
    world.measures(1, "requests_limited_total{limit=\"principal\"}", 0.0).await;
    world.close().await;
}

#[tokio::test]
async fn an_address_is_what_a_trusted_proxy_says_and_nobody_else() {
    let limit = ("RATE_LIMIT_PER_ADDRESS", LIMIT);
    let mut world = limited(&[limit, ("TRUSTED_PROXIES", "127.0.0.0/8, 10.0.0.0/8")]).await;
    let api = world.api();
    let others = async |number| behind(&api, format!("198.51.100.{number}")).get(CAMPAIGNS).await;
    let (statuses_of_others, _) = statuses(others).await;
    assert!(
        statuses_of_others.iter().all(|status| *status == 200),
        "each has a bucket: {statuses_of_others:?}"
    );
    // What stands to the left of the last address that is not trusted is the client's invention.
    let spoofing = async |number| behind(&api, format!("198.51.100.{number}, 203.0.113.1,10.1.1.1"));
    one_bucket(statuses(async |number| spoofing(number).await.get(CAMPAIGNS).await).await, 200);
    // Another header tells nothing: each of these comes from the proxy itself.
    let forwarded = async |number| api.with("forwarded", format!("for=198.51.100.{number}").leak());
    one_bucket(statuses(async |number| forwarded(number).await.get(CAMPAIGNS).await).await, 200);

    world.set("TRUSTED_PROXIES", "10.0.0.0/8");
    let stranger = world.add_process("api").await;
    let api = world.processes[stranger].http();
    one_bucket(
        statuses(async |number| behind(&api, format!("10.0.0.{number}")).get(CAMPAIGNS).await).await,
        200,
    );
    world.close().await;
}

/// Whatever answers without a token counts too, except to those that watch over the process.
#[tokio::test]
async fn every_route_counts_for_an_address_but_the_probes() {
    let world = limited(&[("RATE_LIMIT_PER_ADDRESS", LIMIT)]).await;
    let api = world.api().with_token(None);
    for path in ["/livez", "/readyz", "/metrics"] {
        let (statuses, _) = statuses(async |_| api.get(path).await).await;
        assert!(statuses.iter().all(|status| *status == 200), "{path}: {statuses:?}");
    }
    one_bucket(statuses(async |_| api.get("/problems").await).await, 200);
    for path in ["/problems", "/openapi.json", CAMPAIGNS] {
        let refused = wait_for("the bucket is empty", SOON, async || {
            Some(api.get(path).await).filter(|answer| answer.status == 429)
        });
        told(&refused.await, path, "address");
    }
    world.close().await;
}

#[tokio::test]
async fn failed_logins_are_limited_and_a_valid_token_never_is() {
    let world = limited(&[("FAILED_LOGIN_LIMIT", LIMIT)]).await;
    let claims = format!("{CAMPAIGNS}/{}/coupons", world.open_campaign(json!({})).await);
    let good = world.api().with_token(Some(&world.token(&["--scope", "issue"]).await));
    let (wrong, nothing) =
        (world.api().with_token(Some("a-token-for-testS-only")), world.api().with_token(None));
    let failing = statuses(async |number| {
        let answer = wrong.get(CAMPAIGNS).await;
        if answer.status == 429 {
            told(&answer, CAMPAIGNS, "failed-login");
            // Neither a valid token nor no token is a failed login.
            let claimed = good.post(&claims, &json!({ "user_id": number.to_string() })).await;
            assert_eq!(claimed.status, 201, "{claimed:?}");
            assert_eq!(nothing.get(CAMPAIGNS).await.status, 401);
        }
        answer
    });
    one_bucket(failing.await, 401);
    world.close().await;
}

/// A token that the process does not know is looked for first, and the request counts once all the same.
#[tokio::test]
async fn a_token_that_is_looked_for_counts_once() {
    let world = limited(&[("FAILED_LOGIN_LIMIT", LIMIT), ("RATE_LIMIT_PER_ADDRESS", "1/6")]).await;
    let unknown = format!("cd_01ARZ3NDEKTSV4RRFFQ69G5FAV_{}", "0123456789abcdef".repeat(4));
    let api = world.api().with_token(Some(&unknown));
    let begun = Instant::now();
    let answers = join_all((0..6).map(|_| api.get(CAMPAIGNS))).await;
    let names: Vec<_> = answers.iter().filter_map(|answer| answer.header("ratelimit")).collect();
    assert!(names.iter().all(|name| name.starts_with("\"failed-login\"")), "{names:?}");
    let failed = answers.iter().filter(|answer| answer.status == 401).count() as u64;
    assert!((BURST..=BURST + begun.elapsed().as_secs()).contains(&failed), "{answers:?}");
    world.close().await;
}

#[tokio::test]
async fn by_default_no_request_with_a_valid_token_is_limited() {
    let world = World::start().await;
    let api = world.api();
    let answers = join_all((0..500).map(|_| api.get(CAMPAIGNS))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    for limit in ["principal", "address", "failed-login"] {
        world.measures(0, &format!("requests_limited_total{{limit=\"{limit}\"}}"), 0.0).await;
    }
    world.close().await;
}
