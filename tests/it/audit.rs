//! The balance sheet: whatever is taken away, added or changed anywhere is found and named.

use std::collections::BTreeMap;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use coupon_dispatcher::campaign::CampaignId;
use coupon_dispatcher::event::OUTLET;
use outbox_relay::Shard;
use redis::AsyncCommands as _;
use serde_json::{Value, json};
use ulid::Ulid;
use uuid::Uuid;

use crate::support::{SOON, World, wait_until};

const SHARD: Shard = Shard(0);
const QUICK: &[&str] = &["audit"];
const FULL: &[&str] = &["audit", "--full"];

/// A campaign with coupons, another that settles later, and the tenth coupon of the first.
struct Scene {
    world: World,
    campaign: CampaignId,
    other: CampaignId,
    coupon: Ulid,
    user: String,
}

impl Scene {
    async fn start() -> Self {
        let world = World::with_processes(&["api", "project", "relay"]).await;
        let campaign = world.open_campaign(json!({ "quantity": 30 })).await;
        let other = world.open_campaign(json!({ "quantity": 10, "settle_on": "redeem" })).await;
        for campaign in [campaign, other] {
            world.answered(&world.rush(campaign, 20).run().await);
        }
        world.balanced().await;
        let (coupon, user): (Uuid, String) =
            sqlx::query_as("SELECT id, user_id FROM coupons WHERE campaign_id = $1 AND number = 10")
                .bind(Uuid::from(campaign.0))
                .fetch_one(&world.pool)
                .await
                .unwrap();
        Self { world, campaign, other, coupon: coupon.into(), user }
    }

    /// The audit finds a difference, and its words contain all of these.
    async fn assert_named(&self, arguments: &[&str], words: &[&str]) {
        let finished = self.world.coupon(arguments).await;
        assert_eq!(finished.code, Some(1), "{arguments:?}: {finished:?}");
        let difference = finished.out.lines().last().unwrap();
        for word in words.iter().chain(&["not balanced: "]) {
            assert!(difference.contains(word), "{arguments:?}: no {word:?} in {difference:?}");
        }
    }

    async fn assert_balanced(&self, arguments: &[&str]) {
        let finished = self.world.coupon(arguments).await;
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        assert_eq!(finished.out.lines().last(), Some("balanced"));
    }

    /// Takes the only row that fits the condition.
    async fn take(&self, table: &'static str, condition: &str) -> (&'static str, String) {
        let statement = format!("DELETE FROM {table} AS t WHERE {condition} RETURNING row_to_json(t)::text");
        let rows: Vec<String> = sqlx::query_scalar(&statement).fetch_all(&self.world.pool).await.unwrap();
        assert_eq!(rows.len(), 1, "{table}: {condition}");
        (table, rows.into_iter().next().unwrap())
    }

    async fn put(&self, (table, row): (&str, String)) {
        let statement =
            format!("INSERT INTO {table} SELECT * FROM json_populate_record(NULL::{table}, $1::json)");
        sqlx::query(&statement).bind(row).execute(&self.world.pool).await.unwrap();
    }

    async fn execute(&self, statement: &str) {
        assert_eq!(sqlx::query(statement).execute(&self.world.pool).await.unwrap().rows_affected(), 1);
    }

    fn is_the_coupon(&self, column: &str) -> String {
        format!("{column} = '{}'", Uuid::from(self.coupon))
    }

    fn holders(&self) -> String {
        format!("gate1:{{{}}}:holders", self.campaign)
    }

    /// The stream as it was: made again from the outbox.
    async fn remake_stream(&mut self) {
        // Nobody makes it again while it is being deleted.
        self.world.processes[1].kill();
        self.world.processes[2].kill();
        jetstream::new(self.world.nats().await).delete_stream(OUTLET.stream_of(SHARD)).await.unwrap();
        self.world.processes[1].start().await;
        self.world.processes[2].start().await;
        self.world.balanced().await;
    }
}

#[tokio::test]
async fn a_balanced_world_is_said_to_be_balanced() {
    let scene = Scene::start().await;
    for arguments in [QUICK, FULL, &["audit", "--campaign", &scene.campaign.to_string()]] {
        scene.assert_balanced(arguments).await;
    }
    let finished = scene.world.coupon(&["audit", "--json"]).await;
    assert_eq!(finished.code, Some(0));
    let said: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!((&said["balanced"], &said["sheet"]["difference"]), (&json!(true), &Value::Null));
    let campaigns = said["sheet"]["campaigns"].as_array().unwrap();
    let mut counts = BTreeMap::new();
    for campaign in campaigns {
        let columns = ["gate", "issued", "outbox", "stream", "wallet", "settlement", "settlement_amount"];
        counts.insert(
            campaign["campaign_id"].clone().to_string(),
            columns.map(|column| campaign[column].clone()),
        );
    }
    let amounts =
        |count, settled: i64| [count, count, count, count, count, settled, settled * 500].map(|n| json!(n));
    let expected = [(scene.campaign, amounts(20, 20)), (scene.other, amounts(10, 0))];
    assert_eq!(counts, expected.map(|(id, amounts)| (json!(id).to_string(), amounts)).into());
    scene.world.close().await;
}

#[tokio::test]
async fn a_row_that_is_missing_or_too_much_is_named() {
    let mut scene = Scene::start().await;
    scene.world.processes[0].kill(); // its sweeper would put the gate right
    let (campaign, coupon) = (scene.campaign.to_string(), scene.coupon.to_string());

    let row = scene.take("coupons", &scene.is_the_coupon("id")).await;
    scene.assert_named(QUICK, &[&campaign, "19 coupons"]).await;
    scene.assert_named(FULL, &[&campaign, "19 coupons"]).await;
    scene.assert_named(&["audit", "--campaign", &campaign], &[&campaign]).await;
    scene.assert_balanced(&["audit", "--campaign", &scene.other.to_string()]).await;
    let finished = scene.world.coupon(&["audit", "--json"]).await;
    let said: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!((finished.code, &said["balanced"]), (Some(1), &json!(false)));
    assert!(said["sheet"]["difference"].as_str().unwrap().contains(&campaign));

    // Nothing is left of the coupon but its event.
    let wallet = scene.take("wallet", &scene.is_the_coupon("coupon_id")).await;
    let settlement = scene.take("settlement_entries", &scene.is_the_coupon("coupon_id")).await;
    let () = scene.world.redis().await.srem(scene.holders(), &scene.user).await.unwrap();
    scene.assert_named(QUICK, &[&campaign, &coupon, "outbox"]).await;
    let () = scene.world.redis().await.sadd(scene.holders(), &scene.user).await.unwrap();
    for row in [row, settlement] {
        scene.put(row).await;
    }

    scene.assert_named(QUICK, &[&campaign, &coupon, "wallet"]).await;
    scene.put(wallet).await;
    let settlement = scene.take("settlement_entries", &scene.is_the_coupon("coupon_id")).await;
    scene.assert_named(QUICK, &[&campaign, &coupon, "settlement"]).await;
    scene.put(settlement).await;

    let extra = Ulid::generate();
    let of_another = format!(
        "INSERT INTO wallet SELECT user_id, '{}', campaign_id, 99, face_value, currency, state, issued_at, expires_at \
         FROM wallet WHERE {}",
        Uuid::from(extra),
        scene.is_the_coupon("coupon_id")
    );
    scene.execute(&of_another).await;
    scene.assert_named(QUICK, &[&campaign, &extra.to_string(), "wallet"]).await;
    scene.take("wallet", &format!("coupon_id = '{}'", Uuid::from(extra))).await;
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}

#[tokio::test]
async fn an_amount_that_is_another_is_named() {
    let scene = Scene::start().await;
    let of_the_coupon = scene.is_the_coupon("coupon_id");
    for (amount, arguments) in [(501, QUICK), (499, FULL)] {
        scene
            .execute(&format!("UPDATE settlement_entries SET amount = {amount} WHERE {of_the_coupon}"))
            .await;
        scene.assert_named(arguments, &[&scene.campaign.to_string(), "settle"]).await;
    }
    scene.execute(&format!("UPDATE settlement_entries SET amount = 500 WHERE {of_the_coupon}")).await;
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}

/// The counts agree: only the full audit can find it.
#[tokio::test]
async fn a_row_that_is_another_is_named_by_the_full_audit() {
    let scene = Scene::start().await;
    let (campaign, coupon) = (scene.campaign.to_string(), scene.coupon.to_string());
    let stranger = Uuid::from(Ulid::generate());
    let the_coupon = Uuid::from(scene.coupon);
    for (table, change, back) in [
        ("wallet", format!("coupon_id = '{stranger}'"), format!("coupon_id = '{the_coupon}'")),
        ("wallet", "user_id = 'a-thief'".to_owned(), format!("user_id = '{}'", scene.user)),
        ("wallet", "face_value = 501".to_owned(), "face_value = 500".to_owned()),
        ("settlement_entries", format!("coupon_id = '{stranger}'"), format!("coupon_id = '{the_coupon}'")),
        ("settlement_entries", "merchant_id = 'a-thief'".to_owned(), "merchant_id = 'merchant-1'".to_owned()),
    ] {
        scene
            .execute(&format!("UPDATE {table} SET {change} WHERE {}", scene.is_the_coupon("coupon_id")))
            .await;
        let name = table.trim_end_matches("_entries");
        scene.assert_named(FULL, &[&campaign, name]).await;
        if change.starts_with("coupon_id") {
            scene.execute(&format!("UPDATE {table} SET {back} WHERE {change}")).await;
        } else {
            scene.assert_named(FULL, &[&coupon]).await;
            scene
                .execute(&format!("UPDATE {table} SET {back} WHERE {}", scene.is_the_coupon("coupon_id")))
                .await;
        }
        scene.assert_balanced(FULL).await;
    }
    scene.world.close().await;
}

#[tokio::test]
async fn a_seat_that_is_missing_or_too_much_is_named() {
    let mut scene = Scene::start().await;
    scene.world.processes[0].kill(); // its sweeper would put the gate right
    let (campaign, coupon) = (scene.campaign.to_string(), scene.coupon.to_string());
    let mut redis = scene.world.redis().await;

    let () = redis.srem(scene.holders(), &scene.user).await.unwrap();
    scene.assert_named(QUICK, &[&campaign, &coupon, "19 seats"]).await;
    let () = redis.sadd(scene.holders(), "a-thief").await.unwrap();
    scene.assert_named(FULL, &[&campaign, &coupon]).await; // the counts agree
    let () = redis.sadd(scene.holders(), &scene.user).await.unwrap();
    scene.assert_named(QUICK, &[&campaign, "21 seats", "seat a-thief has no coupon"]).await;
    let () = redis.srem(scene.holders(), "a-thief").await.unwrap();

    // A gate that is not loaded says nothing wrong.
    let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}

#[tokio::test]
async fn a_message_that_is_missing_or_another_is_named() {
    let mut scene = Scene::start().await;
    let context = jetstream::new(scene.world.nats().await);
    let events = scene.world.outbox(SHARD).await;
    let event = events.iter().find(|event| event.subject == scene.coupon.to_string()).unwrap();

    let stream = context.get_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    stream.delete_message(event.position.unsigned_abs()).await.unwrap();
    scene.assert_named(QUICK, &[&scene.campaign.to_string(), "20 coupons, 19 in the stream"]).await;
    let other = scene.other.to_string();
    let of_shard = ["audit", "--campaign", &other];
    scene.assert_named(&of_shard, &["1 messages are missing from stream COUPONS-0"]).await;
    let position = format!("position {} ", event.position);
    scene.assert_named(FULL, &[&position, &event.id.to_string()]).await;
    scene.remake_stream().await;
    scene.assert_balanced(FULL).await;

    // Somebody writes what the relay should have written.
    scene.world.processes[2].kill();
    assert_eq!(scene.world.claim(scene.campaign, "the-last").await.status, 201);
    let events = scene.world.outbox(SHARD).await;
    let last = events.last().unwrap();
    let subject = OUTLET.subject(&last.kind, &last.key, SHARD);
    let stranger = PublishMessage::build().message_id("a-stranger").payload(last.body(&OUTLET));
    context.send_publish(subject, stranger).await.unwrap().await.unwrap();
    let applied = "the stranger is applied"; // it has the right body
    wait_until(applied, SOON, async || scene.world.coupon(QUICK).await.code == Some(0)).await;
    let position = format!("position {} ", last.position);
    scene.assert_named(FULL, &[&position, &last.id.to_string(), "a-stranger"]).await;
    scene.world.processes[2].start().await;
    scene.remake_stream().await;

    // And what nobody should write.
    scene.world.processes[2].kill();
    let stranger = PublishMessage::build().message_id("a-stranger").payload(last.body(&OUTLET));
    context.send_publish("coupons.tested.K.0", stranger).await.unwrap().await.unwrap();
    let (end, head) = (last.position + 1, last.position);
    let ends = format!("stream COUPONS-0 ends at {end}, the outbox at {head}");
    for arguments in [QUICK, FULL] {
        scene.assert_named(arguments, &[&ends]).await;
    }
    scene.world.processes[1].kill();
    forget_position(&scene.world, end).await;
    scene.remake_stream_without_relay().await;
    scene.world.processes[1].start().await;
    scene.world.close().await;
}

#[tokio::test]
async fn a_message_with_another_subject_or_body_is_named() {
    let mut scene = Scene::start().await;
    let another = scene.world.open_campaign(json!({})).await;
    scene.world.balanced().await;
    for (what, spaces, exchanged) in [("has another body", " ", false), ("belongs on", "", true)] {
        scene.world.processes[2].kill();
        let mut messages = Vec::new();
        for campaign in [scene.campaign, another] {
            assert_eq!(scene.world.claim(campaign, what.split(' ').next().unwrap()).await.status, 201);
            let mut event = scene.world.outbox(SHARD).await.pop().unwrap();
            event.data = event.data.replace("\":", &format!("\":{spaces}")); // the same to every reader
            let message =
                PublishMessage::build().message_id(event.id.to_string()).payload(event.body(&OUTLET));
            messages.push((OUTLET.subject(&event.kind, &event.key, SHARD), message, event));
        }
        let first = messages[0].2.clone();
        let mut subjects: Vec<String> = messages.iter().map(|(subject, ..)| subject.clone()).collect();
        if exchanged {
            subjects.reverse(); // the counts agree
        }
        let context = jetstream::new(scene.world.nats().await);
        for (subject, (_, message, _)) in subjects.into_iter().zip(messages) {
            context.send_publish(subject, message).await.unwrap().await.unwrap();
        }
        let balanced = async || scene.world.coupon(QUICK).await.code == Some(0);
        wait_until("the counts agree", SOON, balanced).await;
        let position = format!("position {},", first.position);
        scene.assert_named(FULL, &[&position, &first.id.to_string(), what]).await;
        scene.world.processes[2].start().await;
        scene.remake_stream().await;
    }
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}

/// The projections have applied what the stranger wrote.
async fn forget_position(world: &World, position: i64) {
    sqlx::query("DELETE FROM projection_positions WHERE position = $1")
        .bind(position)
        .execute(&world.pool)
        .await
        .unwrap();
}

impl Scene {
    async fn remake_stream_without_relay(&mut self) {
        jetstream::new(self.world.nats().await).delete_stream(OUTLET.stream_of(SHARD)).await.unwrap();
        self.world.processes[2].start().await;
    }
}

#[tokio::test]
async fn a_projection_or_a_relay_that_lags_is_named() {
    let mut scene = Scene::start().await;
    scene.world.processes[1].kill();
    let head = scene.world.head(SHARD).await;
    let other = scene.other.to_string();
    let of_shard = ["audit", "--campaign", &other];
    let claimed = scene.world.claim(scene.campaign, "the-last").await;
    assert_eq!(claimed.status, 201);
    scene.world.assert_published().await;
    let coupon = claimed.body["id"].as_str().unwrap();
    scene.assert_named(QUICK, &[&scene.campaign.to_string(), "wallet", coupon]).await;
    let late = format!("wallet has applied shard 0 up to {head}, the outbox ends at {}", head + 1);
    scene.assert_named(&of_shard, &[&late]).await;
    scene.world.processes[2].kill();
    assert_eq!(scene.world.claim(scene.campaign, "the-very-last").await.status, 201);
    let late = format!("stream COUPONS-0 ends at {}, the outbox at {}", head + 1, head + 2);
    scene.assert_named(&of_shard, &[&late]).await;
    for process in [1, 2] {
        scene.world.processes[process].start().await;
    }
    scene.world.close().await;
}

#[tokio::test]
async fn without_one_of_the_servers_nothing_can_be_told() {
    let mut scene = Scene::start().await;
    let servers = &mut scene.world.servers;
    for server in [&mut servers.postgres, &mut servers.redis, &mut servers.nats] {
        server.kill().await;
    }
    for (number, name) in [(0, "Postgres"), (1, "NATS"), (2, "")] {
        let finished = scene.world.coupon(FULL).await;
        assert_eq!((finished.code, finished.out.as_str()), (Some(2), ""), "{finished:?}");
        assert!(finished.err.contains(name), "{finished:?}");
        let servers = &mut scene.world.servers;
        [&mut servers.postgres, &mut servers.nats, &mut servers.redis][number].start().await.unwrap();
    }
    scene.world.balanced().await;
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}
