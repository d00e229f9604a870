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
