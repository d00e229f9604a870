//! Claims, one at a time: what a user is answered, and what he finds in his wallet.

use coupon_dispatcher::ids::UserId;
use redis::AsyncCommands as _;
use serde_json::{Value, json};

use crate::parsing::paths::path_of;
use crate::support::{Answer, SOON, World, draft, owns, wait_for, wait_until};

/// The id of the coupon that was issued, or is held already.
fn coupon(answer: &Answer) -> &str {
    let body = if answer.status == 201 { &answer.body } else { &answer.body["coupon"] };
    body["id"].as_str().unwrap_or_else(|| panic!("no coupon in {answer:?}"))
}

#[tokio::test]
async fn a_winner_gets_a_coupon_that_can_be_looked_up() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let issued = world.claim(campaign, "alice").await;
    assert_eq!(issued.status, 201, "{issued:?}");
    let path = format!("/v1/coupons/{}", coupon(&issued));
    assert_eq!(issued.header("location"), Some(path.as_str()));
    for (field, value) in [
        ("campaign_id", json!(campaign)),
        ("user_id", json!("alice")),
        ("number", json!(1)),
        ("state", json!("issued")),
    ] {
        assert_eq!(issued.body[field], value, "{field}");
    }
    assert!(issued.body["code"].as_str().unwrap().parse::<coupon_dispatcher::coupon::code::Code>().is_ok());
    let shown = world.api().get(&path).await;
    assert_eq!((shown.status, shown.body), (200, issued.body));
    world.close().await;
}

#[tokio::test]
async fn a_user_id_is_1_to_64_visible_ascii_characters() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    for user in ["a".repeat(64), "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~".to_owned(), "0".to_owned()] {
        let answer = world.claim(campaign, &user).await;
        assert_eq!((answer.status, &answer.body["user_id"]), (201, &json!(user)));
    }
    for user in ["", &"a".repeat(65), "a b", " a", "é", "a\n", "a\u{0}", "\u{7f}"] {
        let answer = world.claim(campaign, user).await;
        assert_eq!((answer.status, answer.problem()), (422, "invalid"), "{user:?}");
        assert_eq!(answer.body["errors"][0]["field"], "user_id");
    }
    world.close().await;
}

#[tokio::test]
async fn a_winner_is_shown_his_coupon_for_ever() {
    let fault = owns("process-killed");
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 1 })).await;
    let issued = world.claim(campaign, "alice").await;
    assert_eq!(issued.status, 201);
    let shown_again = async |world: &World, when: &str| {
        let again = world.claim(campaign, "alice").await;
        assert_eq!((again.status, again.problem()), (409, "already-issued"), "{when}: {again:?}");
        assert_eq!(again.body["coupon"], issued.body, "{when}");
    };
    assert_eq!(world.claim(campaign, "bob").await.problem(), "sold-out");
    shown_again(&world, "after the sell-out").await;

    world.processes[0].kill();
    fault.fired(1);
    world.processes[0].start().await;
    shown_again(&world, "after a restart").await;

    let () = redis::cmd("FLUSHALL").query_async(&mut world.redis().await).await.unwrap();
    wait_until("the gate is loaded", SOON, async || world.claim(campaign, "bob").await.status == 410).await;
    shown_again(&world, "after the gate was lost").await;

    let closed = world.api().post(&format!("/v1/campaigns/{campaign}/close"), &Value::Null).await;
    assert_eq!(closed.status, 200);
    shown_again(&world, "after the close").await;
    assert_eq!(world.claim(campaign, "bob").await.problem(), "closed");
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_user_may_hold_as_many_as_the_campaign_allows() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 5, "per_user_limit": 3 })).await;
    let mut newest = Value::Null;
    for number in 1..=3 {
        let issued = world.claim(campaign, "alice").await;
        assert_eq!((issued.status, &issued.body["number"]), (201, &json!(number)), "{issued:?}");
        newest = issued.body;
    }
    let refused = world.claim(campaign, "alice").await;
    assert_eq!((refused.status, refused.problem()), (409, "user-limit-reached"));
    assert_eq!(refused.body["coupon"], newest);
    for status in [201, 201, 410] {
        assert_eq!(world.claim(campaign, "bob").await.status, status);
    }
    world.close().await;
}

#[tokio::test]
async fn a_wallet_shows_coupons_in_pages_from_the_newest_on() {
    let world = World::start().await;
    let mut issued = Vec::new();
    for _ in 0..3 {
        let campaign = world.open_campaign(json!({})).await;
        issued.push(coupon(&world.claim(campaign, "alice").await).to_owned());
    }
    world.claim(world.open_campaign(json!({})).await, "bob").await;
    let page = async |query: &str| world.api().get(&format!("/v1/users/alice/coupons?{query}")).await.body;
    let ids = |page: &Value| -> Vec<String> {
        page["coupons"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()).collect()
    };
    wait_until("all are projected", SOON, async || ids(&page("").await).len() == 3).await;
    issued.reverse();

    let first = page("limit=2").await;
    assert_eq!(ids(&first), issued[..2]);
    assert_eq!(first["coupons"][0]["usable"], true);
    let second = page(&format!("limit=2&cursor={}", first["next"].as_str().unwrap())).await;
    assert_eq!((ids(&second), &second["next"]), (issued[2..].to_vec(), &Value::Null));
    assert_eq!(ids(&page("status=usable").await), issued);
    assert_eq!(ids(&page("status=redeemed").await), [""; 0]);
    world.close().await;
}

#[tokio::test]
async fn a_coupon_past_its_time_is_not_usable() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "coupon_valid_for": "PT1S" })).await;
    world.claim(campaign, "alice").await;
    let shown = async || {
        let page = world.api().get("/v1/users/alice/coupons").await.body;
        page["coupons"].get(0).filter(|coupon| coupon["usable"] == false).cloned()
    };
    wait_for("the coupon is not usable", SOON, shown).await;
    let usable = world.api().get("/v1/users/alice/coupons?status=usable").await.body;
    assert_eq!(usable["coupons"], json!([]));
    world.close().await;
}

/// Nobody has written that the coupon is expired: the time says it, everywhere.
#[tokio::test]
async fn a_coupon_past_its_end_is_shown_as_expired_everywhere() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "coupon_valid_for": "PT1S" })).await;
    let later = world.open_campaign(json!({})).await;
    let issued = world.claim(campaign, "alice").await;
    assert_eq!(issued.body["state"], "issued");
    let path = format!("/v1/coupons/{}", coupon(&issued));
    let expired = async || world.api().get(&path).await.body["state"] == "expired";
    wait_until("the coupon is expired", SOON, expired).await;
    let kept = coupon(&world.claim(later, "alice").await).to_owned();

    let wallet = async |query: &str| {
        let page = world.api().get(&format!("/v1/users/alice/coupons?{query}")).await.body;
        let shown = page["coupons"].as_array().unwrap().iter().map(|shown| {
            let [id, state] = ["id", "state"].map(|name| shown[name].as_str().unwrap().to_owned());
            (id, state, shown["usable"].as_bool().unwrap())
        });
        shown.collect::<Vec<_>>()
    };
    wait_until("both are projected", SOON, async || wallet("").await.len() == 2).await;
    let old = (coupon(&issued).to_owned(), "expired".to_owned(), false);
    let new = (kept, "issued".to_owned(), true);
    assert_eq!(wallet("").await, [new.clone(), old.clone()]);
    assert_eq!(wallet("status=expired").await, [old]);
    assert_eq!(wallet("status=issued").await, std::slice::from_ref(&new));
    assert_eq!(wallet("status=usable").await, [new]);

    // The member `coupon` of a problem, first as the pool reads it, then as issue_batch_2() returns it.
    for forget in [false, true] {
        if forget {
            let mut redis = world.redis().await;
            let holders = World::gate(campaign, ":holders");
            let gone: i64 =
                redis::cmd("SREM").arg(&holders).arg("alice").query_async(&mut redis).await.unwrap();
            assert_eq!(gone, 1);
        }
        let again = world.claim(campaign, "alice").await;
        assert_eq!((again.status, &again.body["coupon"]["state"]), (409, &json!("expired")), "{again:?}");
    }
    world.close().await;
}

/// Any text that is taken for a user leads to their wallet, whatever clients and proxies make of the path.
#[tokio::test]
async fn every_user_that_is_taken_has_a_wallet() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 1_000 })).await;
    let mut users: Vec<String> =
        ["...", "a.", "a/b", "//", "../x", "%2e", "%2E%2E"].map(ToOwned::to_owned).into();
    users.extend((b'!'..=b'~').filter(|byte| *byte != b'.').map(|byte| char::from(byte).to_string()));
    users.extend((b'!'..=b'~').map(|byte| format!(".{}", char::from(byte))).filter(|user| user != ".."));
    for user in &users {
        assert_eq!(world.claim(campaign, user).await.status, 201, "{user}");
    }
    let shows = async |user: &str| {
        let wallet = world.api().get(&format!("{}/coupons", path_of("/v1/users", user))).await;
        wallet.body["coupons"].as_array().is_some_and(|coupons| coupons.len() == 1)
    };
    for user in &users {
        wait_until(&format!("{user} has a wallet"), SOON, async || shows(user).await).await;
    }
    for user in [".", ".."] {
        let refused = world.claim(campaign, user).await;
        assert_eq!((refused.status, refused.problem()), (422, "invalid"), "{user}");
        let refused = world.api().post("/v1/campaigns", &draft(json!({ "merchant_id": user }))).await;
        assert_eq!((refused.status, &refused.body["errors"][0]["field"]), (422, &json!("merchant_id")));
    }
    // Rows that an earlier version has written are still read.
    let read: UserId = sqlx::query_scalar("SELECT '..'").fetch_one(&world.pool).await.unwrap();
    assert_eq!(read.as_str(), "..");
    world.close().await;
}

/// A campaign that gives each user two coupons refuses the second, for whatever reason, and shows the first.
#[tokio::test]
async fn a_user_with_fewer_coupons_than_the_limit_is_shown_the_newest_by_every_refusal() {
    let mut world = World::start().await;
    let two = |quantity: usize| json!({ "quantity": quantity, "per_user_limit": 2 });
    let (single, pair) = (world.open_campaign(two(2)).await, world.open_campaign(two(2)).await);
    let issued = world.claim(single, "alice").await;
    assert_eq!(world.claim(single, "carol").await.status, 201);
    let of_pair = world.claim(pair, "alice").await;
    let refused = async |world: &World, campaign, status, problem: &str, coupon: &Value| {
        let told = async |user: &str| {
            wait_for(problem, SOON, async || {
                Some(world.claim(campaign, user).await).filter(|answer| answer.problem() == problem)
            })
            .await
        };
        let (holder, other) = (told("alice").await, told("bob").await);
        assert_eq!((holder.status, &holder.body["coupon"]), (status, coupon), "{holder:?}");
        assert_eq!((other.status, other.body.get("coupon")), (status, None), "{other:?}");
    };
    refused(&world, single, 410, "sold-out", &issued.body).await;
    world.pending(single, 0).await;
    refused(&world, single, 410, "sold-out", &issued.body).await;
    // The last seat is pending for somebody else.
    world.pending(pair, 0).await;
    let mut redis = world.redis().await;
    let (now, _): (i64, i64) = redis::cmd("TIME").query_async(&mut redis).await.unwrap();
    let (holders, pending) = (World::gate(pair, ":holders"), World::gate(pair, ":pending"));
    let () = redis.zadd(&pending, "ghost", (now + 15) * 1_000).await.unwrap();
    let () = redis.sadd(&holders, "ghost").await.unwrap();
    refused(&world, pair, 410, "sold-out", &of_pair.body).await;
    let () = redis.zadd(&pending, "ghost", 1).await.unwrap();
    world.pending(pair, 0).await;

    let set = async |world: &World, change: &str| {
        world.execute(&format!("UPDATE campaigns SET version = version + 1, {change}")).await;
    };
    let change = async |change: &str| {
        let changed = world.api().post(&format!("/v1/campaigns/{pair}/{change}"), &Value::Null).await;
        assert_eq!(changed.status, 200, "{changed:?}");
    };
    change("pause").await;
    refused(&world, pair, 403, "not-open", &of_pair.body).await;
    change("open").await;
    for campaign in [single, pair] {
        world.api().post(&format!("/v1/campaigns/{campaign}/close"), &Value::Null).await;
    }
    refused(&world, single, 410, "closed", &issued.body).await;
    refused(&world, pair, 410, "closed", &of_pair.body).await;
    // Long over: only Postgres answers.
    set(&world, "opens_at = now() - interval '3 days', closes_at = now() - interval '2 days'").await;
    world.servers.redis.kill().await;
    refused(&world, pair, 410, "closed", &of_pair.body).await;
    world.servers.redis.start().await.unwrap();
    world.close().await;
}

/// Whatever the gate says of a seat that is pending when all are taken: nobody waits long for the answer.
#[tokio::test]
async fn losers_are_answered_together_while_the_last_seat_is_pending() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 2 })).await;
    let issued = world.claim(campaign, "alice").await;
    world.pending(campaign, 0).await;
    let mut redis = world.redis().await;
    let (now, _): (i64, i64) = redis::cmd("TIME").query_async(&mut redis).await.unwrap();
    let (holders, pending) = (World::gate(campaign, ":holders"), World::gate(campaign, ":pending"));
    let () = redis.zadd(&pending, "ghost", (now + 15) * 1_000).await.unwrap();
    let () = redis.sadd(&holders, "ghost").await.unwrap();
    let losers: Vec<String> = (0..200).map(|number| format!("loser-{number}")).collect();
    let (held, answers) = tokio::join!(
        world.claim(campaign, "alice"),
        futures_util::future::join_all(losers.iter().map(|user| world.claim(campaign, user)))
    );
    assert_eq!((held.status, &held.body["coupon"]), (409, &issued.body), "{held:?}");
    for answer in answers {
        assert_eq!((answer.status, answer.problem(), answer.body.get("coupon")), (410, "sold-out", None));
    }
    let () = redis.zadd(&pending, "ghost", 1).await.unwrap();
    world.close().await;
}
