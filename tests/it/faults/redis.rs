//! Redis answers, and refuses: it is a replica, full, busy, or loads its file. For its disk see `disks`, for what it
//! loses without a word `losses`.

use std::time::{Duration, Instant};

use coupon_dispatcher::ids::CampaignId;
use coupon_dispatcher::servers::Setup;
use futures_util::future::join_all;
use redis::FromRedisValue;
use serde_json::json;

use super::{QUANTITY, someone, survives};
use crate::support::{Answer, Fault, SOON, World, owns, wait_until};

/// P9.
const REFUSED_WITHIN: Duration = Duration::from_millis(300);
/// From the end of what was wrong with Redis to the first coupon.
const BACK_WITHIN: Duration = Duration::from_secs(2);
/// From then on until the gate equals Postgres: a lease, after which the sweeper sees to seats whose confirmation
/// was lost.
const EQUAL_WITHIN: Duration = Duration::from_secs(12);

pub(super) async fn ask<T: FromRedisValue>(world: &World, command: &str) -> redis::RedisResult<T> {
    let mut words = command.split(' ');
    let mut question = redis::cmd(words.next().unwrap());
    question.arg(words.collect::<Vec<_>>());
    question.query_async(&mut world.redis().await).await
}

pub(super) async fn tell(world: &World, command: &str) {
    ask::<redis::Value>(world, command).await.unwrap();
}

async fn twenty_claims(world: &World, campaign: CampaignId) -> Vec<Answer> {
    let users: Vec<String> = (0..20).map(|number| format!("crowd-{number}")).collect();
    join_all(users.iter().map(|user| world.claim(campaign, user))).await
}

/// The gate's refusal, which is to be asked again.
pub(super) fn is_refused(answer: &Answer) -> bool {
    let refused = (answer.status, answer.problem()) == (503, "gate-unavailable");
    assert!(!refused || answer.header("retry-after") == Some("1"), "{answer:?}");
    refused
}

/// While `begin` lasts no coupon is issued, every claim is refused in time, and `/readyz` says why; after `end`
/// claims are taken again, by themselves and soon; and once more in a rush.
pub(super) async fn refuses_and_comes_back(
    world: World,
    fault: &Fault,
    begin: impl AsyncFn(&World),
    end: impl AsyncFn(&World),
) -> Duration {
    let campaign = world.open_campaign(json!({})).await;
    let (mut refused_in, mut back_in) = (Duration::MAX, Duration::MAX);
    // The machine may be busy: the best of some attempts counts.
    for attempt in 0..5 {
        let winner = format!("winner-{attempt}");
        let before = world.coupons(campaign).await;
        begin(&world).await;
        // The first may have been on its way.
        let first = twenty_claims(&world, campaign).await;
        let second = twenty_claims(&world, campaign).await;
        assert!(first.iter().all(|answer| answer.problem() != "sold-out"), "{first:?}");
        assert!(second.iter().all(is_refused), "{second:?}");
        assert_eq!(world.coupons(campaign).await, before, "while no seat can be taken");
        let unready = async || world.api().get("/readyz").await.body["redis"] == "down";
        wait_until("the process says that Redis is of no use", SOON, unready).await;
        end(&world).await;
        let ended = Instant::now();
        let won = async || match world.claim(campaign, &winner).await {
            answer if answer.status == 201 => true,
            answer => {
                assert!(is_refused(&answer), "{answer:?}");
                false
            }
        };
        wait_until("claims are taken", SOON, won).await;
        back_in = back_in.min(ended.elapsed());
        refused_in = refused_in.min(first.iter().chain(&second).map(|answer| answer.took).max().unwrap());
        if refused_in < REFUSED_WITHIN && back_in < BACK_WITHIN {
            break;
        }
    }
    println!("refused within {refused_in:?}, back within {back_in:?}");
    assert!(refused_in < REFUSED_WITHIN, "refused within {refused_in:?} only");
    assert!(back_in < BACK_WITHIN, "back within {back_in:?} only");
    oversells_nothing(world, fault, async |world: &mut World, campaign| {
        begin(world).await;
        let refused = async || is_refused(&world.claim(campaign, &someone()).await);
        wait_until("claims are refused", SOON, refused).await;
        end(world).await;
    })
    .await
}

/// A rush with something happening to Redis in it. In the end, and soon, the gate equals Postgres: how soon.
pub(super) async fn oversells_nothing(
    mut world: World,
    fault: &Fault,
    happening: impl AsyncFnOnce(&mut World, CampaignId),
) -> Duration {
    let mut rushed_for = None;
    survives(&mut world, fault, async |world: &mut World, campaign| {
        happening(world, campaign).await;
        rushed_for = Some(campaign);
    })
    .await;
    let started = Instant::now();
    let campaign = rushed_for.unwrap();
    let key = World::gate(campaign, "");
    assert_eq!(world.coupons(campaign).await, QUANTITY);
    let equal = async || {
        let taken: i64 = ask(&world, &format!("SCARD {key}:holders")).await.unwrap();
        let pending: i64 = ask(&world, &format!("ZCARD {key}:pending")).await.unwrap();
        (taken, pending) == (QUANTITY, 0)
    };
    wait_until("the gate equals Postgres", EQUAL_WITHIN, equal).await;
    let equal_in = started.elapsed();
    println!("equal {equal_in:?} after the rush");
    let again = "SELECT count(*) FROM (SELECT FROM coupons GROUP BY user_id HAVING count(*) > 1) AS again";
    let again: i64 = sqlx::query_scalar(again).fetch_one(&world.pool).await.unwrap();
    assert_eq!(again, 0, "users with more than one coupon");
    world.close().await;
    equal_in
}

#[tokio::test]
async fn a_redis_that_becomes_a_replica_gives_no_seat_until_it_is_primary_again() {
    refuses_and_comes_back(
        World::with_processes(&["", "api"]).await,
        &owns("redis-read-only"),
        async |world| tell(world, "REPLICAOF 127.0.0.1 9").await,
        async |world| tell(world, "REPLICAOF NO ONE").await,
    )
    .await;
}

#[tokio::test]
async fn a_redis_without_memory_gives_no_seat_until_it_has_some() {
    refuses_and_comes_back(
        World::with_processes(&["", "api"]).await,
        &owns("redis-out-of-memory"),
        async |world| tell(world, "CONFIG SET maxmemory 1").await,
        async |world| tell(world, "CONFIG SET maxmemory 0").await,
    )
    .await;
}

#[tokio::test]
async fn a_redis_that_is_busy_with_a_script_gives_no_seat_until_it_is_killed() {
    refuses_and_comes_back(
        World::with_processes(&["", "api"]).await,
        &owns("redis-busy"),
        async |world| {
            tell(world, "CONFIG SET busy-reply-threshold 100").await;
            let mut redis = world.redis().await;
            let endless = redis::cmd("EVAL").arg("while true do end").arg(0).to_owned();
            tokio::spawn(async move { endless.exec_async(&mut redis).await });
            wait_until("Redis is busy", SOON, async || {
                let answer = ask::<redis::Value>(world, "PING").await;
                answer.is_err_and(|error| error.code() == Some("BUSY"))
            })
            .await;
        },
        async |world| tell(world, "SCRIPT KILL").await,
    )
    .await;
}

/// Long before the lease is over, and the sweeper sees to a seat.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);

/// A claim is committed while `begin` lasts; the answer is that of the key of pending seats.
async fn committed_meanwhile(world: &World, begin: &str) -> String {
    let campaign = world.open_campaign(json!({})).await;
    world.claim(campaign, "alice").await;
    world.pending(campaign, 0).await;
    world.servers.postgres.freeze();
    let (api, path) = (world.api(), format!("/v1/campaigns/{campaign}/coupons"));
    let claim = tokio::spawn(async move { api.post(&path, &json!({ "user_id": "bob" })).await });
    world.pending(campaign, 1).await;
    tell(world, begin).await;
    world.servers.postgres.thaw();
    let answer = claim.await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    World::gate(campaign, ":pending")
}

async fn is_confirmed(world: &World, pending: &str) {
    let none = async || ask::<usize>(world, &format!("ZCARD {pending}")).await.unwrap() == 0;
    wait_until("the seat is confirmed", CONFIRMED_WITHIN, none).await;
}

/// A confirmation frees memory.
#[tokio::test]
async fn a_redis_without_memory_learns_that_a_coupon_is_committed() {
    let fault = owns("redis-out-of-memory");
    let world = World::start().await;
    let pending = committed_meanwhile(&world, "CONFIG SET maxmemory 1").await;
    is_confirmed(&world, &pending).await;
    tell(&world, "CONFIG SET maxmemory 0").await;
    fault.fired(1);
    world.close().await;
}

#[tokio::test]
async fn a_redis_that_is_primary_again_learns_what_was_committed_meanwhile() {
    let fault = owns("redis-read-only");
    let world = World::start().await;
    let pending = committed_meanwhile(&world, "REPLICAOF 127.0.0.1 9").await;
    tell(&world, "REPLICAOF NO ONE").await;
    is_confirmed(&world, &pending).await;
    fault.fired(1);
    world.close().await;
}

#[tokio::test]
async fn a_redis_that_is_lost_in_a_quiet_hour_is_not_found_out_by_a_claim() {
    let fault = owns("redis-away");
    let mut world = World::start().await;
    // So that it forgets nothing: with `everysec` a busy disk may lose two seconds, and the gate must be loaded again.
    tell(&world, "CONFIG SET appendfsync always").await;
    let campaign = world.open_campaign(json!({})).await;
    world.claim(campaign, "alice").await;
    world.servers.redis.kill().await;
    let unready = async || world.api().get("/readyz").await.body["redis"] == "down";
    wait_until("the process notices", SOON, unready).await;
    world.servers.redis.start().await.unwrap();
    let ready = async || world.api().get("/readyz").await.status == 200;
    wait_until("the process is ready", SOON, ready).await;
    let claimed = world.claim(campaign, "bob").await;
    assert_eq!(claimed.status, 201, "{claimed:?}");
    fault.fired(1);
    world.close().await;
}

pub(super) async fn of_info(world: &World, field: &str) -> u64 {
    let info: String = ask(world, "INFO").await.unwrap();
    let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap().trim().parse().unwrap()
}

/// A large file takes its time, and Redis says so.
#[tokio::test]
async fn while_redis_loads_its_file_claims_are_refused() {
    let fault = owns("redis-loading");
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let slowly =
        "--enable-debug-command yes --key-load-delay 100 --loading-process-events-interval-bytes 1024";
    let arguments = slowly.split(' ').map(str::to_owned).collect();
    world.servers.redis.restart_with(Setup { arguments, ..Setup::default() }).await.unwrap();
    tell(&world, "DEBUG POPULATE 20000").await;
    tell(&world, "BGREWRITEAOF").await;
    let written = async || of_info(&world, "aof_rewrite_in_progress").await == 0;
    wait_until("the file is written", SOON, written).await;
    let (api, path) = (world.api(), format!("/v1/campaigns/{campaign}/coupons"));
    let redis = redis::Client::open(world.servers.redis_url()).unwrap();
    world.servers.redis.kill().await;
    let refused = async {
        wait_until("Redis loads", SOON, async || {
            let Ok(mut redis) = redis.get_multiplexed_async_connection().await else { return false };
            let answer = redis::cmd("PING").exec_async(&mut redis).await;
            answer.is_err_and(|error| error.code() == Some("LOADING"))
        })
        .await;
        let answer = api.post(&path, &json!({ "user_id": "alice" })).await;
        assert!(is_refused(&answer), "{answer:?}");
    };
    let (started, ()) = tokio::join!(world.servers.redis.start(), refused);
    started.unwrap();
    let won = async || world.claim(campaign, "alice").await.status == 201;
    wait_until("claims are taken", BACK_WITHIN, won).await;
    fault.fired(1);
    world.close().await;
}
