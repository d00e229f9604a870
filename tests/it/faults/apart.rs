//! What befalls one campaign or one shard stays with it.

use std::time::Duration;

use coupon_dispatcher::ids::CampaignId;
use futures_util::future::join_all;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::gate::tell_redis;
use crate::support::{SOON, World, in_seconds, owns, wait_until};

/// For what the sweeper does twice a second, on a crowded machine. A lock that it waited for would take longer.
const SWEPT: Duration = Duration::from_secs(4);

/// A transaction of somebody else that stays open behind this statement.
async fn holding(world: &World, statement: &str) -> PgConnection {
    let mut session = PgConnection::connect(&world.servers.database_url()).await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut session).await.unwrap();
    sqlx::raw_sql(statement).execute(&mut session).await.unwrap();
    session
}

/// A seat whose claim came to no end long ago is put back on sale.
async fn a_lost_seat_comes_back(world: &World, campaign: CampaignId, name: &str) {
    tell_redis(world, &["SADD", &World::gate(campaign, ":holders"), name]).await;
    tell_redis(world, &["ZADD", &World::gate(campaign, ":pending"), "1", name]).await;
    let mut redis = world.redis().await;
    let key = World::gate(campaign, ":pending");
    let back = async || {
        let pending: usize = redis::cmd("ZCARD").arg(&key).query_async(&mut redis).await.unwrap();
        pending == 0
    };
    wait_until("the seat is back on sale", SWEPT, back).await;
}

async fn is_in_state(world: &World, campaign: CampaignId, state: &str) -> bool {
    let now: String = sqlx::query_scalar("SELECT state FROM campaigns WHERE id = $1")
        .bind(Uuid::from(campaign.0))
        .fetch_one(&world.pool)
        .await
        .unwrap();
    now == state
}

impl World {
    /// A campaign that opens in so many seconds, and whose shard is the one asked for.
    async fn scheduled(&self, shard: i16, seconds: i64) -> CampaignId {
        loop {
            let campaign = self.create_campaign(json!({ "opens_at": in_seconds(seconds) })).await;
            if campaign.shard(2).0 == shard {
                self.api().post(&format!("/v1/campaigns/{campaign}/open"), &json!(null)).await;
                return campaign;
            }
        }
    }
}

#[tokio::test]
async fn a_row_that_stays_locked_holds_up_no_other_campaign() {
    let fault = owns("campaign-locked");
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    let locked = world.open_campaign(json!({ "closes_at": in_seconds(3) })).await;
    let id = Uuid::from(locked.0);
    let mut session = holding(&world, &format!("SELECT FROM campaigns WHERE id = '{id}' FOR UPDATE")).await;
    let due = async || {
        let over = "SELECT closes_at < now() FROM campaigns WHERE id = $1";
        sqlx::query_scalar::<_, bool>(over).bind(id).fetch_one(&world.pool).await.unwrap()
    };
    wait_until("the locked campaign is due", SOON, due).await;
    fault.fired(1);
    for round in 0..3 {
        a_lost_seat_comes_back(&world, campaign, &format!("ghost-{round}")).await;
    }
    let next = world.scheduled(0, 1).await;
    let opened = async || is_in_state(&world, next, "open").await;
    wait_until("another campaign is opened", SWEPT, opened).await;
    assert!(is_in_state(&world, locked, "open").await, "its row is locked");
    sqlx::raw_sql("ROLLBACK").execute(&mut session).await.unwrap();
    let closed = async || is_in_state(&world, locked, "closed").await;
    wait_until("the campaign that was locked is closed", SOON, closed).await;
    fault.healed();
    world.close().await;
}

/// The first claim of a scheduled campaign locks its row. One wait for each of these rows would be longer than a statement
/// may take, and the batch would fail with all its claims.
#[tokio::test]
async fn many_locked_rows_of_scheduled_campaigns_hold_up_no_other_campaign() {
    let world = World::start().await;
    let free = world.open_campaign(json!({ "quantity": 1_000 })).await;
    let scheduled = join_all((0..30).map(|_| world.scheduled(0, 4))).await;
    let locks = "SELECT FROM campaigns WHERE state = 'scheduled' FOR UPDATE";
    let mut session = holding(&world, locks).await;
    let due = async || {
        let due = "SELECT count(*) = 30 FROM campaigns WHERE state = 'scheduled' AND opens_at < now()";
        sqlx::query_scalar::<_, bool>(due).fetch_one(&world.pool).await.unwrap()
    };
    wait_until("all are due", SOON, due).await;
    for round in 0..3 {
        let user = format!("user-{round}");
        let others = scheduled.iter().map(|campaign| world.claim(*campaign, &user));
        let ours = (0..10).map(async |nth| world.claim(free, &format!("{user}-{nth}")).await);
        let (_, ours) = futures_util::join!(join_all(others), join_all(ours));
        for answer in ours {
            assert_eq!(answer.status, 201, "{answer:?}");
        }
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut session).await.unwrap();
    let opened = async || world.claim(scheduled[0], "the-last").await.status == 201;
    wait_until("the campaigns are open", SOON, opened).await;
    world.close().await;
}

#[tokio::test]
async fn the_lock_of_one_shard_holds_up_no_other_shard() {
    let fault = owns("shard-locked");
    let mut world = World::bare(2).await;
    world.migrate().await;
    world.add_process("").await;
    let (held, free) = (world.scheduled(0, 3).await, world.scheduled(1, 3).await);
    let mut session = holding(&world, "SELECT outbox_lock(0::smallint)").await;
    fault.fired(1);
    let opened = async || is_in_state(&world, free, "open").await;
    wait_until("the campaign of the other shard is opened", Duration::from_secs(3) + SWEPT, opened).await;
    assert!(is_in_state(&world, held, "scheduled").await, "its shard is locked");
    for round in 0..3 {
        for campaign in [free, held] {
            a_lost_seat_comes_back(&world, campaign, &format!("ghost-{round}")).await;
        }
    }
    assert_eq!(world.claim(free, "alice").await.status, 201);
    sqlx::raw_sql("ROLLBACK").execute(&mut session).await.unwrap();
    let opened = async || is_in_state(&world, held, "open").await;
    wait_until("the campaign that was held up is opened", SOON, opened).await;
    fault.healed();
    world.close().await;
}

/// Scripts fail on it, claims on other campaigns go on, and the key is replaced.
#[tokio::test]
async fn a_key_of_another_type_breaks_one_campaign_until_it_is_repaired() {
    let fault = owns("gate-key-broken");
    let world = World::start().await;
    let (broken, other) =
        (world.open_campaign(json!({})).await, world.open_campaign(json!({ "quantity": 5_000 })).await);
    assert_eq!(world.claim(other, "alice").await.status, 201);
    let mut users = 0;
    for part in ["", ":holders", ":pending", ":loading"] {
        assert_eq!(world.claim(broken, &format!("before{part}")).await.status, 201);
        world.pending(broken, 0).await;
        let key = World::gate(broken, part);
        for lie in [&["SET", &key, "x"][..], &["RPUSH", &key, "x"]] {
            // At once: in between, a load could create the key.
            let mut lies = redis::pipe();
            lies.atomic().cmd("DEL").arg(&key).cmd(lie[0]).arg(&lie[1..]);
            lies.exec_async(&mut world.redis().await).await.unwrap();
            fault.fired(1);
            wait_until(&format!("a claim wins after {lie:?}"), SOON, async || {
                users += 1;
                let (user, elsewhere) = (format!("user-{users}"), format!("other-{users}"));
                let (here, elsewhere) =
                    tokio::join!(world.claim(broken, &user), world.claim(other, &elsewhere));
                assert_eq!(elsewhere.status, 201, "{lie:?}: {elsewhere:?}");
                assert!([201, 503].contains(&here.status), "{lie:?}: {here:?}");
                here.status == 201
            })
            .await;
        }
    }
    assert!(!world.processes[0].log().contains("the gate is lost"), "the gate was lost for all");
    fault.healed();
    world.close().await;
}

/// The walk along so many campaigns takes at least 10 s: 1,500 in half a second.
#[tokio::test]
async fn a_lost_seat_waits_for_no_turn_of_its_campaign() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "winner").await.status, 201);
    world.balanced().await;
    let others = "INSERT INTO campaigns (id, shard, name, merchant_id, face_value, currency, quantity, per_user_limit, \
                  opens_at, closes_at, coupon_valid_for, settle_on, state) \
                  SELECT gen_random_uuid(), shard, 'other', merchant_id, face_value, currency, quantity, per_user_limit, \
                         opens_at, closes_at, 86400, settle_on, state FROM campaigns, generate_series(1, 30000)";
    sqlx::raw_sql(others).execute(&world.pool).await.unwrap();
    let key = World::gate(campaign, ":pending");
    tell_redis(&world, &["SADD", &World::gate(campaign, ":holders"), "lost"]).await;
    tell_redis(&world, &["ZADD", &key, "1", "lost"]).await;
    let mut redis = world.redis().await;
    let back = async || !redis::cmd("EXISTS").arg(&key).query_async::<bool>(&mut redis).await.unwrap();
    wait_until("the walk has come to the campaign", SOON, back).await;
    for name in ["lost-1", "lost-2", "lost-3"] {
        a_lost_seat_comes_back(&world, campaign, name).await;
    }
    sqlx::raw_sql("DELETE FROM campaigns WHERE name = 'other'").execute(&world.pool).await.unwrap();
    world.close().await;
}

#[tokio::test]
async fn a_campaign_that_cannot_be_read_holds_up_no_other() {
    let world = World::start().await;
    let (unreadable, other) = (world.open_campaign(json!({})).await, world.open_campaign(json!({})).await);
    let set = async |merchant: &str| {
        let set = "UPDATE campaigns SET merchant_id = $2 WHERE id = $1";
        sqlx::query(set).bind(Uuid::from(unreadable.0)).bind(merchant).execute(&world.pool).await.unwrap();
    };
    let merchant: String = sqlx::query_scalar("SELECT merchant_id FROM campaigns WHERE id = $1")
        .bind(Uuid::from(unreadable.0))
        .fetch_one(&world.pool)
        .await
        .unwrap();
    set("a merchant with spaces").await;
    assert_eq!(world.claim(other, "winner").await.status, 201);
    a_lost_seat_comes_back(&world, other, "lost").await;
    let counted = async || {
        let metrics = world.api().get("/metrics").await.text;
        !metrics.contains("campaign_failures_total{step=\"sweep\"} 0\n")
    };
    wait_until("the failure is counted", SOON, counted).await;
    set(&merchant).await;
    world.close().await;
}

/// What is stored of three campaigns cannot be read: the list and the audit name them, and tell of all others.
#[tokio::test]
async fn a_campaign_that_cannot_be_read_is_named_and_all_others_are_told() {
    let world = World::start().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(world.open_campaign(json!({})).await);
    }
    let [other, merchant, state, time]: [CampaignId; 4] = ids.try_into().unwrap();
    for campaign in [other, merchant, state, time] {
        assert_eq!(world.claim(campaign, "alice").await.status, 201);
    }
    let spoil = "ALTER TABLE campaigns DROP CONSTRAINT campaigns_state_is_known, \
                DROP CONSTRAINT campaigns_times_can_be_read; \
                UPDATE campaigns SET created_at = created_at + interval '9000 years' WHERE id = '{t}'; \
                UPDATE campaigns SET merchant_id = 'two words' WHERE id = '{m}'; \
                UPDATE campaigns SET state = 'lost' WHERE id = '{s}'";
    let mend = "UPDATE campaigns SET merchant_id = 'merchant-1', state = 'open', \
                created_at = least(created_at, now()); \
                ALTER TABLE campaigns ADD CONSTRAINT campaigns_state_is_known \
                CHECK (state IN ('draft', 'scheduled', 'open', 'paused', 'closed'))";
    let [m, s, t] = [merchant, state, time].map(|id| Uuid::from(id.0).to_string());
    world.execute(&spoil.replace("{m}", &m).replace("{s}", &s).replace("{t}", &t)).await;
    let list = world.api().get("/v1/campaigns?limit=4").await;
    assert_eq!(list.status, 200, "{list:?}");
    let listed: Vec<&str> =
        list.body["campaigns"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(listed, [other.to_string()]);
    assert_eq!(list.body["unreadable"], json!([time, state, merchant]));
    assert_eq!(list.body["next"], other.to_string(), "a page is full, whatever can be read of it");
    world.processes[0].told("a campaign cannot be read, and is left out of a list").await;
    let shown = world.coupon(&["campaign", "list"]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.err.contains(&format!("Campaign {merchant} is left out")), "{shown:?}");
    let no_time = world.coupon(&["audit", "--campaign", &time.to_string()]).await;
    assert!(no_time.code == Some(1) && no_time.out.contains("has made the driver panic"), "{no_time:?}");
    for arguments in [&["audit"][..], &["audit", "--full"], &["audit", "--campaign", &merchant.to_string()]] {
        let sheet = world.coupon(arguments).await;
        let first = format!("not balanced: campaign {merchant}: its row in `campaigns` cannot be read: ");
        assert!(sheet.code == Some(1) && sheet.out.contains(&first), "{arguments:?}: {sheet:?}");
        assert_eq!(sheet.out.contains(&format!("\n{other} ")), arguments.len() < 3, "{sheet:?}");
    }
    let only = world.coupon(&["audit", "--campaign", &state.to_string(), "--json"]).await;
    assert!(only.code == Some(1) && only.out.contains(r#""kind":"campaign_unreadable""#), "{only:?}");
    world.execute(mend).await;
    world.close().await;
}
