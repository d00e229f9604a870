//! The event about the opening of a scheduled campaign comes once, and before every other event about the campaign.

use std::time::{Duration, Instant};

use coupon_dispatcher::ids::CampaignId;
use outbox_relay::{NewEvent, Shard, append};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::issuing::{claim, request, with_writer};
use crate::outbox::event;
use crate::support::{SOON, World, in_seconds, wait_until};

const SHARD: Shard = Shard(0);

/// A campaign that opens in a second, and whose gate is loaded.
async fn scheduled(world: &World, quantity: i32) -> CampaignId {
    let campaign = world.create_campaign(json!({ "quantity": quantity, "opens_at": in_seconds(1) })).await;
    let opened = world.api().post(&format!("/v1/campaigns/{campaign}/open"), &Value::Null).await;
    assert_eq!((opened.status, &opened.body["state"]), (200, &json!("scheduled")), "{opened:?}");
    campaign
}

/// Types of the events about a campaign, in order.
async fn kinds(world: &World, campaign: CampaignId) -> Vec<String> {
    let events = world.outbox(SHARD).await;
    let about = events.into_iter().filter(|event| event.key == campaign.to_string());
    about.map(|event| event.kind).collect()
}

#[tokio::test]
async fn the_opening_comes_before_the_first_issue_though_no_sweeper_runs() {
    let mut world = World::start().await;
    let campaign = scheduled(&world, 1).await;
    world.processes[0].kill();
    let routes = with_writer(&world).await;
    wait_until("alice has a coupon", SOON, async || claim(&world, &routes, campaign, "alice").await == 201)
        .await;
    let told = ["campaign-opened", "issued", "campaign-sold-out"];
    assert_eq!(kinds(&world, campaign).await, told);

    let outbox = world.outbox(SHARD).await;
    let data: Value = serde_json::from_str(&outbox[0].data).unwrap();
    let expected = json!({
        "campaign_id": campaign, "merchant_id": "merchant-1", "name": "Friday", "quantity": 1, "version": 3,
    });
    assert_eq!((data, outbox[0].subject.as_str()), (expected, campaign.to_string().as_str()));
    world.processes[0].start().await;
    let path = format!("/v1/campaigns/{campaign}");
    let shown = world.api().get(&path).await.body;
    assert_eq!((&shown["state"], &shown["version"]), (&json!("open"), &json!(3)));
    // Sweepers, operators and further claims add no second one.
    assert_eq!(world.api().post(&format!("{path}/open"), &Value::Null).await.body["version"], 3);
    assert_eq!(world.api().post(&format!("{path}/close"), &Value::Null).await.body["version"], 4);
    assert_eq!(kinds(&world, campaign).await, [&told[..], &["campaign-closed"]].concat());
    world.close().await;
}

/// As often as an operator likes: the opening and the close come once, what is between them is a change.
#[tokio::test]
async fn a_campaign_is_paused_and_opened_again() {
    let world = World::with_processes(&["", "api"]).await;
    let campaign = world.open_campaign(json!({})).await;
    let change = async |change: &str| {
        let path = format!("/v1/campaigns/{campaign}/{change}");
        let changed = world.api().post(&path, &Value::Null).await;
        (changed.status, changed.body["state"].as_str().unwrap_or(changed.problem()).to_owned())
    };
    let elsewhere = async |user: &str| {
        let path = format!("/v1/campaigns/{campaign}/coupons");
        world.processes[1].http().post(&path, &json!({ "user_id": user })).await
    };
    let ok = |state: &str| (200, state.to_owned());
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    for round in 1..=2 {
        assert_eq!((change("pause").await, change("pause").await), (ok("paused"), ok("paused")));
        let refused = world.claim(campaign, "bob").await;
        let opens_at = &refused.body["opens_at"];
        assert_eq!(
            (refused.status, refused.problem(), opens_at),
            (403, "not-open", &Value::Null),
            "{refused:?}"
        );
        let not_open = async || elsewhere("bob").await.problem() == "not-open";
        wait_until("the other process refuses, too", SOON, not_open).await;
        assert_eq!(world.claim(campaign, "alice").await.problem(), "already-issued");
        assert_eq!((change("open").await, change("open").await), (ok("open"), ok("open")));
        let claimed = elsewhere(&format!("user-{round}")).await;
        assert_eq!(claimed.status, 201, "{claimed:?}");
    }
    assert_eq!(change("close").await, ok("closed"));
    for what in ["pause", "open"] {
        assert_eq!(change(what).await, (409, "not-allowed-in-state".to_owned()), "{what}");
    }
    let kinds = kinds(&world, campaign).await;
    let expected = ["campaign-opened", "issued", "campaign-changed", "campaign-changed", "issued"];
    let expected =
        [&expected[..], &["campaign-changed", "campaign-changed", "issued", "campaign-closed"]].concat();
    assert_eq!(kinds, expected);
    let changes = world.outbox(SHARD).await.into_iter().filter(|event| event.kind == "campaign-changed");
    let states = changes.map(|event| {
        let data: Value = serde_json::from_str(&event.data).unwrap();
        (data["state"].as_str().unwrap().to_owned(), data["version"].as_i64().unwrap())
    });
    let states: Vec<_> = states.collect();
    let expected = [("paused", 3), ("open", 4), ("paused", 5), ("open", 6)];
    assert_eq!(states, expected.map(|(state, version)| (state.to_owned(), version)));
    world.balanced().await;
    world.close().await;
}

/// What is not open cannot be paused; what time has opened can, though nobody has noticed yet.
#[tokio::test]
async fn a_campaign_is_paused_from_its_opening_on() {
    let mut world = World::start().await;
    let draft = world.create_campaign(json!({})).await;
    let in_an_hour = in_seconds(3_600);
    let later = world.create_campaign(json!({ "opens_at": in_an_hour })).await;
    assert_eq!(world.api().post(&format!("/v1/campaigns/{later}/open"), &Value::Null).await.status, 200);
    for (campaign, state) in [(draft, "draft"), (later, "scheduled")] {
        let refused = world.api().post(&format!("/v1/campaigns/{campaign}/pause"), &Value::Null).await;
        assert_eq!((refused.status, refused.problem()), (409, "not-allowed-in-state"), "{refused:?}");
        let detail = format!("a campaign that is {state} cannot be paused");
        assert!(refused.body["detail"].as_str().unwrap().contains(&detail), "{refused:?}");
    }
    world.processes[0].kill();
    let due = "UPDATE campaigns SET opens_at = now() WHERE id = $1";
    sqlx::query(due).bind(later).execute(&world.pool).await.unwrap();
    let mut keeper = world.pool.begin().await.unwrap();
    // The clock passes over a row that is locked, and the request waits for it.
    sqlx::query("SELECT FROM campaigns WHERE id = $1 FOR UPDATE")
        .bind(later)
        .execute(&mut *keeper)
        .await
        .unwrap();
    world.processes[0].start().await;
    let (api, path) = (world.api(), format!("/v1/campaigns/{later}/pause"));
    let pause = tokio::spawn(async move { api.post(&path, &Value::Null).await });
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE')";
    let waits = async || sqlx::query_scalar::<_, bool>(waits).fetch_one(&world.pool).await.unwrap();
    wait_until("the request waits", SOON, waits).await;
    keeper.commit().await.unwrap();
    let paused = pause.await.unwrap();
    assert_eq!((paused.status, &paused.body["state"]), (200, &json!("paused")), "{paused:?}");
    assert_eq!(kinds(&world, later).await, ["campaign-opened", "campaign-changed"]);
    world.close().await;
}

/// The program before opens a campaign in this order: the row, the state, the event, which takes the shard's lock.
#[tokio::test]
async fn the_program_before_opens_a_campaign_and_nobody_opens_it_twice() {
    let mut world = World::start().await;
    let campaign = scheduled(&world, 5).await;
    world.processes[0].kill();
    let routes = with_writer(&world).await;
    let due = async || {
        let due = "SELECT opens_at < now() FROM campaigns WHERE id = $1";
        sqlx::query_scalar::<_, bool>(due).bind(campaign).fetch_one(&world.pool).await.unwrap()
    };
    wait_until("its time has come", SOON, due).await;
    let mut before = world.pool.begin().await.unwrap();
    let open = "UPDATE campaigns SET state = 'open', version = version + 1 WHERE id = $1";
    sqlx::query(open).bind(campaign).execute(&mut *before).await.unwrap();
    let opened = NewEvent {
        kind: "campaign-opened",
        key: campaign.to_string(),
        subject: campaign.to_string(),
        ..event("campaign-opened")
    };
    append(&mut before, SHARD, &[opened]).await.unwrap();
    let claim = tokio::spawn(routes.oneshot(request(campaign, "alice")));
    wait_until("the batch waits", SOON, async || {
        let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity \
                       WHERE wait_event_type = 'Lock' AND query LIKE '%issue_batch%')";
        sqlx::query_scalar::<_, bool>(waiting).fetch_one(&world.pool).await.unwrap()
    })
    .await;
    before.commit().await.unwrap();
    assert_eq!(claim.await.unwrap().unwrap().status(), 201);
    assert_eq!(kinds(&world, campaign).await, ["campaign-opened", "issued"]);
    world.processes[0].start().await;
    world.close().await;
}

/// A session keeps the row of one campaign: its coupons wait, those of others do not.
#[tokio::test]
async fn a_campaign_whose_row_is_kept_holds_up_no_other() {
    let mut world = World::start().await;
    let other = world.open_campaign(json!({})).await;
    let campaign = scheduled(&world, 5).await;
    world.processes[0].kill();
    let routes = with_writer(&world).await;
    let mut keeper = world.pool.begin().await.unwrap();
    let keep = "SELECT FROM campaigns WHERE id = $1 FOR UPDATE";
    sqlx::query(keep).bind(campaign).execute(&mut *keeper).await.unwrap();
    let gate_opens = async || {
        let opens = "SELECT opens_at + interval '100 milliseconds' < now() FROM campaigns WHERE id = $1";
        sqlx::query_scalar::<_, bool>(opens).bind(campaign).fetch_one(&world.pool).await.unwrap()
    };
    wait_until("its time has come", SOON, gate_opens).await;
    let (waits, served) = tokio::join!(claim(&world, &routes, campaign, "alice"), async {
        let asked = Instant::now();
        (claim(&world, &routes, other, "bob").await, asked.elapsed())
    });
    assert_eq!((waits, served.0), (403, 201));
    assert!(served.1 < Duration::from_secs(3), "{:?}", served.1);
    assert_eq!(kinds(&world, campaign).await, [""; 0]);
    keeper.rollback().await.unwrap();
    wait_until("alice has a coupon", SOON, async || claim(&world, &routes, campaign, "alice").await == 201)
        .await;
    assert_eq!(kinds(&world, campaign).await, ["campaign-opened", "issued"]);
    world.processes[0].start().await;
    world.close().await;
}

/// Users ask without a pause from before the opening on, at three processes: nobody gets a coupon before it, and the first one comes
/// by the clock of the gate, not with a round of the sweeper.
#[tokio::test]
async fn a_rush_that_begins_early_gets_nothing_before_the_opening() {
    let world = World::with_processes(&["", "api", "api"]).await;
    let campaign = world.create_campaign(json!({ "quantity": 30, "opens_at": in_seconds(2) })).await;
    let path = format!("/v1/campaigns/{campaign}");
    assert_eq!(world.api().post(&format!("{path}/open"), &Value::Null).await.body["state"], "scheduled");
    let users = (0..30).map(async |user: usize| {
        let (api, body) = (world.processes[user % 3].http(), json!({ "user_id": format!("user-{user}") }));
        let mut early = 0;
        loop {
            let answer = api.post(&format!("{path}/coupons"), &body).await;
            match answer.status {
                201 => return early,
                403 => early += 1,
                503 => {} // the gate is being loaded
                _ => panic!("{answer:?}"),
            }
        }
    });
    let early: u32 = futures_util::future::join_all(users).await.into_iter().sum();
    assert!(early > 30, "{early} were refused: the rush began too late");
    let late = "SELECT extract(epoch FROM min(issued_at) - opens_at)::float8 FROM coupons JOIN campaigns ON campaigns.id = campaign_id \
                GROUP BY opens_at";
    let late: f64 = sqlx::query_scalar(late).fetch_one(&world.pool).await.unwrap();
    println!("the first coupon came {:.1} ms after the opening", 1_000.0 * late);
    assert!(late >= 0.0, "{late}");
    world.balanced().await;
    world.close().await;
}
