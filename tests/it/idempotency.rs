//! A request that is repeated with its `Idempotency-Key` has one effect and one answer, whatever breaks meanwhile.

mod elsewhere;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use coupon_dispatcher::cause::{Cause, IdempotencyKey};
use coupon_dispatcher::idempotency::Keyed;
use coupon_dispatcher::identity::Principal;
use coupon_dispatcher::ids::CampaignId;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::problems::is_as_ever;
use crate::support::{Answer, Http, SOON, World, draft, in_seconds, wait_for, wait_until};

const KEY: &str = "idempotency-key";

fn coupons(campaign: CampaignId) -> String {
    format!("/v1/campaigns/{campaign}/coupons")
}

/// The first process, asked with this key.
fn keyed(world: &World, key: &'static str) -> Http {
    world.api().with(KEY, key)
}

async fn claim(api: &Http, campaign: CampaignId, user: &str) -> Answer {
    api.post(&coupons(campaign), &json!({ "user_id": user })).await
}

/// Asserts that this is the answer that `first` had, to the byte.
fn assert_replayed(again: &Answer, first: &Answer) {
    assert_eq!((again.status, &again.text), (first.status, &first.text), "{again:?}");
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(
        (again.header("idempotency-replayed"), first.header("idempotency-replayed")),
        (Some("true"), None)
    );
}

#[tokio::test]
async fn a_claim_that_is_repeated_gets_the_answer_of_the_first() {
    let mut world = World::with_processes(&["", "api"]).await;
    let campaign = world.open_campaign(json!({ "per_user_limit": 3, "quantity": 4 })).await;
    let (one, two) = (keyed(&world, "one"), keyed(&world, "two"));
    let elsewhere = world.processes[1].http().with(KEY, "one");
    let first = claim(&one, campaign, "alice").await;
    assert_eq!(first.status, 201, "{first:?}");
    assert_replayed(&claim(&one, campaign, "alice").await, &first);
    assert_replayed(&claim(&elsewhere, campaign, "alice").await, &first);
    // The key belongs to this body, this campaign and this caller.
    let reused = claim(&one, campaign, "bob").await;
    assert_eq!((reused.status, reused.problem()), (422, "idempotency-key-reused"), "{reused:?}");
    is_as_ever("idempotency-key-reused", &reused);
    assert!(!reused.text.contains("alice"), "{reused:?}");
    let other = world.open_campaign(json!({})).await;
    let issued = claim(&one, other, "bob").await;
    assert_eq!((issued.status, issued.header("idempotency-replayed")), (201, None), "{issued:?}");
    let token = world.token(&["--scope", "issue"]).await;
    let second = claim(&one.with_token(Some(&token)), campaign, "alice").await;
    assert_eq!((second.status, second.header("idempotency-replayed")), (201, None), "{second:?}");
    // Another key, or none, asks for another coupon.
    let third = claim(&two, campaign, "alice").await;
    assert_eq!(third.status, 201, "{third:?}");
    assert_eq!(claim(&keyed(&world, "three"), campaign, "alice").await.problem(), "user-limit-reached");
    assert_eq!(claim(&world.api(), campaign, "bob").await.status, 201);
    assert_eq!(claim(&keyed(&world, "three"), campaign, "carol").await.problem(), "sold-out");
    // Whatever becomes of the campaign and of the processes.
    for again in [&one, &elsewhere] {
        assert_replayed(&claim(again, campaign, "alice").await, &first);
    }
    let closed = world.api().post(&format!("/v1/campaigns/{campaign}/close"), &Value::Null).await;
    assert_eq!(closed.status, 200, "{closed:?}");
    assert_replayed(&claim(&two, campaign, "alice").await, &third);
    world.processes[0].kill();
    world.processes[0].start().await;
    let one = keyed(&world, "one");
    assert_replayed(&claim(&one, campaign, "alice").await, &first);
    assert_eq!(claim(&one, campaign, "bob").await.problem(), "idempotency-key-reused");
    assert_eq!(world.coupons(campaign).await, 4);
    world.pending(campaign, 0).await;
    world.balanced().await;
    world.close().await;
}

/// More than one seat for the user, and a key that two requests have at the same moment.
#[tokio::test]
async fn twins_get_one_coupon() {
    let world = World::with_processes(&["", "api"]).await;
    let apis: Vec<Http> = world.processes.iter().map(|process| process.http().with(KEY, "twin")).collect();
    for limit in [1, 10] {
        let campaign = world.open_campaign(json!({ "per_user_limit": limit, "quantity": 10 })).await;
        let twins = (0..20).map(|n| claim(&apis[n % 2], campaign, "alice"));
        let answers = join_all(twins).await;
        let texts: BTreeSet<&str> = answers.iter().map(|answer| &*answer.text).collect();
        assert!(answers.iter().all(|answer| answer.status == 201) && texts.len() == 1, "{answers:?}");
        let replayed = answers.iter().filter(|answer| answer.header("idempotency-replayed").is_some());
        assert_eq!((replayed.count(), world.coupons(campaign).await), (19, 1));
        // Keys of one batch that differ are independent.
        let users = ["bob", "carol", "dave"].map(|user| claim(&apis[0], campaign, user));
        let problems: Vec<_> = join_all(users).await;
        assert!(problems.iter().all(|answer| answer.problem() == "idempotency-key-reused"), "{problems:?}");
        world.pending(campaign, 0).await;
    }
    let body = draft(json!({}));
    let answers = join_all((0..20).map(|n| apis[n % 2].post("/v1/campaigns", &body))).await;
    let ids: BTreeSet<&str> = answers.iter().filter_map(|answer| answer.body["id"].as_str()).collect();
    assert!(answers.iter().all(|answer| answer.status == 201) && ids.len() == 1, "{answers:?}");
    world.balanced().await;
    world.close().await;
}

#[tokio::test]
async fn a_change_of_a_campaign_that_is_repeated_gets_the_answer_of_the_first() {
    let world = World::start().await;
    let api = keyed(&world, "one");
    let body = draft(json!({ "name": "Friday" }));
    let created = api.post("/v1/campaigns", &body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let mut spaced = serde_json::to_string_pretty(&body).unwrap();
    spaced.push('\n');
    let again = api.send("POST".parse().unwrap(), "/v1/campaigns", spaced).await;
    assert_replayed(&again, &created);
    let other = api.post("/v1/campaigns", &draft(json!({ "name": "Monday" }))).await;
    assert_eq!((other.status, other.problem()), (422, "idempotency-key-reused"), "{other:?}");
    // A refusal is not kept.
    let refused = keyed(&world, "two").post("/v1/campaigns", &draft(json!({ "quantity": 0 }))).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert_eq!(keyed(&world, "two").post("/v1/campaigns", &body).await.status, 201);

    let path = created.header("location").unwrap();
    let change = async |api: &Http, what: &str| api.post(&format!("{path}/{what}"), &Value::Null).await;
    let opened = change(&api, "open").await;
    assert_eq!((opened.status, &opened.body["state"]), (200, &json!("open")), "{opened:?}");
    assert_replayed(&change(&api, "open").await, &opened);
    let paused = change(&api, "pause").await;
    assert_eq!((paused.status, &paused.body["state"]), (200, &json!("paused")), "{paused:?}");
    assert_replayed(&change(&api, "pause").await, &paused);
    let closed = change(&api, "close").await;
    assert_eq!((closed.status, &closed.body["state"]), (200, &json!("closed")), "{closed:?}");
    assert_replayed(&change(&api, "close").await, &closed);
    assert_replayed(&change(&api, "open").await, &opened);
    let late = change(&keyed(&world, "two"), "open").await;
    assert_eq!((late.status, late.problem()), (409, "not-allowed-in-state"), "{late:?}");
    let shown = world.api().get(path).await;
    assert_eq!(shown.body, closed.body);
    world.close().await;
}

#[tokio::test]
async fn a_campaign_whose_time_has_passed_is_shown_to_the_retry() {
    let world = World::start().await;
    let body = draft(json!({ "closes_at": in_seconds(2) }));
    let created = keyed(&world, "one").post("/v1/campaigns", &body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let is_over = async || {
        let over = "SELECT every(closes_at < now()) FROM campaigns";
        sqlx::query_scalar::<_, bool>(over).fetch_one(&world.pool).await.unwrap()
    };
    wait_until("its time has passed", SOON, is_over).await;
    assert_replayed(&keyed(&world, "one").post("/v1/campaigns", &body).await, &created);
    assert_eq!(keyed(&world, "two").post("/v1/campaigns", &body).await.problem(), "invalid");
    world.close().await;
}

/// Another process has begun a request with this key, and does not end.
#[tokio::test]
async fn a_request_waits_for_its_twin_and_then_says_that_the_key_is_in_use() {
    let world = World::start().await;
    let draft = world.create_campaign(json!({})).await;
    let key = IdempotencyKey::parse("held");
    let cause = Cause { key, ..Cause::of(Principal::Administrator) };
    let keyed_request = Keyed::of(&cause, "openCampaign", &draft.to_string(), &[]).unwrap();
    let lock = keyed_request.key().as_u64_pair().0.cast_signed();
    let mut holder = world.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(lock).execute(&mut *holder).await.unwrap();
    let path = format!("/v1/campaigns/{draft}/open");
    let asked = Instant::now();
    let busy = keyed(&world, "held").post(&path, &Value::Null).await;
    assert_eq!((busy.status, busy.problem()), (409, "idempotency-key-in-use"), "{busy:?}");
    is_as_ever("idempotency-key-in-use", &busy);
    assert_eq!(busy.header("retry-after"), Some("1"));
    assert!(asked.elapsed() >= Duration::from_secs(5), "{:?}", asked.elapsed());
    let (waits, ()) = tokio::join!(async { keyed(&world, "held").post(&path, &Value::Null).await }, async {
        holder.rollback().await.unwrap();
    });
    assert_eq!((waits.status, waits.header("idempotency-replayed")), (200, None), "{waits:?}");
    world.close().await;
}

/// A process crashes at each point between a request with a key and its answer, on each route. The retry gets the one
/// effect that there is, and keeps its answer.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_crash_at_any_point_leaves_the_key_with_its_effect_or_neither() {
    let mut world = World::start().await;
    let claimed = [
        "claim.asked",
        "gate.admitted",
        "gate.passed_on",
        "writer.took",
        "writer.committed",
        "writer.settled",
        "claim.judged",
    ];
    for point in claimed {
        let campaign = world.open_campaign(json!({ "per_user_limit": 3 })).await;
        crash(&mut world, point, &coupons(campaign), &json!({ "user_id": "alice" })).await;
        assert_eq!(world.coupons(campaign).await, 1, "{point}");
        world.balanced().await;
    }
    // The answer of a creation is sent as soon as it is committed, and the gate is told nothing.
    for point in ["campaign.recorded", "campaign.committed"] {
        let before = campaigns(&world).await;
        let body = draft(json!({ "name": point }));
        let created = crash(&mut world, point, "/v1/campaigns", &body).await;
        assert_eq!((created.status, &created.body["version"]), (201, &json!(1)), "{created:?}");
        assert_eq!(campaigns(&world).await, before + 1, "{point}");
    }
    for (change, state) in [("open", "open"), ("close", "closed")] {
        for point in ["campaign.recorded", "campaign.committed", "campaign.changed"] {
            let campaign = world.create_campaign(json!({})).await;
            let path = format!("/v1/campaigns/{campaign}/{change}");
            let changed = crash(&mut world, point, &path, &Value::Null).await;
            let shown = (changed.status, &changed.body["state"], &changed.body["version"]);
            assert_eq!(shown, (200, &json!(state), &json!(2)), "{change}, {point}: {changed:?}");
            assert_eq!(world.api().get(&format!("/v1/campaigns/{campaign}")).await.body, changed.body);
        }
    }
    world.balanced().await;
    world.close().await;
}

#[cfg(feature = "failpoints")]
async fn campaigns(world: &World) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM campaigns").fetch_one(&world.pool).await.unwrap()
}

/// The first process crashes at this point while it serves a request with a key. Returns the answer to the retry, which
/// is the same ever after.
#[cfg(feature = "failpoints")]
async fn crash(world: &mut World, point: &'static str, path: &str, body: &Value) -> Answer {
    let process = &mut world.processes[0];
    process.kill();
    process.set("FAILPOINTS", &format!("{point}=crash@1"));
    process.launch();
    process.ready().await;
    let crashed = process.http().with(KEY, point).try_post(path, body).await;
    assert!(process.crashed().await.contains(&format!("failpoint {point} fires")));
    process.set("FAILPOINTS", "");
    process.start().await;
    let api = process.http().with(KEY, point);
    let answered = async || Some(api.post(path, body).await).filter(|answer| answer.status < 500);
    let first = wait_for("the retry is answered", SOON, answered).await;
    let again = answered().await.unwrap();
    assert!(first.status < 300 && again.text == first.text, "{path}, {point}: {first:?} {again:?}");
    // The answer may have gone out before the crash.
    assert!(crashed.as_ref().is_none_or(|crashed| crashed.text == first.text), "{point}: {crashed:?}");
    assert_eq!(again.header("idempotency-replayed"), Some("true"), "{path}, {point}");
    first
}

#[tokio::test]
async fn a_failure_is_not_kept() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    world.execute("ALTER TABLE coupons ADD CONSTRAINT fails CHECK (number < 0) NOT VALID").await;
    let api = keyed(&world, "once");
    let failed = claim(&api, campaign, "alice").await;
    assert_eq!(failed.status, 503, "{failed:?}");
    world.execute("ALTER TABLE coupons DROP CONSTRAINT fails").await;
    let issued = async || {
        let answer = claim(&api, campaign, "alice").await;
        assert_eq!(answer.header("idempotency-replayed"), None, "{answer:?}");
        answer.status == 201
    };
    wait_until("the coupon is issued", SOON, issued).await;
    world.close().await;
}

#[tokio::test]
async fn a_campaign_can_demand_a_key() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "per_user_limit": 3, "require_idempotency_key": true })).await;
    let refused = claim(&world.api(), campaign, "alice").await;
    assert_eq!((refused.status, refused.problem()), (400, "idempotency-key-required"), "{refused:?}");
    is_as_ever("idempotency-key-required", &refused);
    assert_eq!(claim(&keyed(&world, "one"), campaign, "alice").await.status, 201);
    assert_eq!(world.coupons(campaign).await, 1);
    let shown = world.api().get(&format!("/v1/campaigns/{campaign}")).await;
    assert_eq!(shown.body["require_idempotency_key"], true, "{shown:?}");
    world.close().await;
}

#[tokio::test]
async fn a_key_that_cannot_be_one_is_refused() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let long: &'static str = String::leak("k".repeat(256));
    for api in [keyed(&world, "two words"), keyed(&world, ""), keyed(&world, long)] {
        let refused = claim(&api, campaign, "alice").await;
        assert_eq!((refused.status, refused.problem()), (422, "invalid"), "{refused:?}");
        assert_eq!(refused.body["errors"][0]["field"], "Idempotency-Key", "{refused:?}");
    }
    assert_eq!(claim(&keyed(&world, &long[1..]), campaign, "alice").await.status, 201);
    world.close().await;
}

/// Connections are expensive: a request that is refused costs none.
#[tokio::test]
async fn a_refused_change_closes_no_connection() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let path = format!("/v1/campaigns/{campaign}");
    let closed = world.api().post(&format!("{path}/close"), &Value::Null).await;
    assert_eq!(closed.status, 200, "{closed:?}");
    let body = draft(json!({}));
    assert_eq!(keyed(&world, "one").post("/v1/campaigns", &body).await.status, 201);
    let sessions = async || -> BTreeSet<i32> {
        let sessions = "SELECT pid FROM pg_stat_activity WHERE application_name = 'coupon'";
        sqlx::query_scalar(sessions).fetch_all(&world.pool).await.unwrap().into_iter().collect()
    };
    let before = sessions().await;
    let unknown = CampaignId(ulid::Ulid::generate());
    for _ in 0..10 {
        let refused = world.api().post(&format!("{path}/open"), &Value::Null).await;
        assert_eq!(refused.problem(), "not-allowed-in-state", "{refused:?}");
        let other = keyed(&world, "one").post("/v1/campaigns", &draft(json!({ "name": "Monday" }))).await;
        assert_eq!(other.problem(), "idempotency-key-reused", "{other:?}");
        let absent = world.api().post(&format!("/v1/campaigns/{unknown}/open"), &Value::Null).await;
        assert_eq!(absent.status, 404, "{absent:?}");
    }
    let after = sessions().await;
    assert!(!before.is_empty() && before.is_subset(&after), "{before:?} {after:?}");
    world.close().await;
}

/// Kept for a day and no longer than two.
#[tokio::test]
async fn old_keys_are_removed_as_a_whole() {
    let world = World::bare(1).await;
    world.migrate().await;
    world
        .execute(
            "INSERT INTO idempotency_keys (slot, key, request_hash, status, body, created_at) \
             SELECT idempotency_slot(time), gen_random_uuid(), sha256(''), 200, '{}', time \
             FROM generate_series(0, 2) AS day, LATERAL (SELECT now() - day * interval '1 day') AS at (time)",
        )
        .await;
    let kept = async || -> Vec<i32> {
        let days = "SELECT (current_date - created_at::date) FROM idempotency_keys ORDER BY 1";
        sqlx::query_scalar(days).fetch_all(&world.pool).await.unwrap()
    };
    let remove = async || -> bool {
        sqlx::query_scalar("SELECT idempotency_remove_old()").fetch_one(&world.pool).await.unwrap()
    };
    assert_eq!(kept().await, [0, 1, 2]);
    assert!(remove().await);
    assert_eq!(kept().await, [0, 1]);
    assert!(!remove().await);
    world.close().await;
}
