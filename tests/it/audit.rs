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
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) campaign: CampaignId,
    other: CampaignId,
    pub(crate) coupon: Ulid,
    pub(crate) user: String,
}

impl Scene {
    pub(crate) async fn start() -> Self {
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
    pub(crate) async fn take(&self, table: &'static str, condition: &str) -> (&'static str, String) {
        let statement = format!("DELETE FROM {table} AS t WHERE {condition} RETURNING row_to_json(t)::text");
        let rows: Vec<String> = sqlx::query_scalar(&statement).fetch_all(&self.world.pool).await.unwrap();
        assert_eq!(rows.len(), 1, "{table}: {condition}");
        (table, rows.into_iter().next().unwrap())
    }

    pub(crate) async fn put(&self, (table, row): (&str, String)) {
        let statement =
            format!("INSERT INTO {table} SELECT * FROM json_populate_record(NULL::{table}, $1::json)");
        sqlx::query(&statement).bind(row).execute(&self.world.pool).await.unwrap();
    }

    async fn execute(&self, statement: &str) {
        assert_eq!(sqlx::query(statement).execute(&self.world.pool).await.unwrap().rows_affected(), 1);
    }

    pub(crate) fn is_the_coupon(&self, column: &str) -> String {
        format!("{column} = '{}'", Uuid::from(self.coupon))
    }

    fn is_the_campaign(&self) -> String {
        format!("campaign_id = '{}'", Uuid::from(self.campaign.0))
    }

    pub(crate) fn holders(&self) -> String {
        format!("gate1:{{{}}}:holders", self.campaign)
    }

    /// The stream as it was: made again from the outbox.
    pub(crate) async fn remake_stream(&mut self) {
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
    let head = scene.world.head(SHARD).await;
    for (arguments, full) in [(&["audit", "--json"][..], false), (&["audit", "--full", "--json"], true)] {
        let finished = scene.world.coupon(arguments).await;
        assert_eq!(finished.code, Some(0));
        let said: Value = serde_json::from_str(&finished.out).unwrap();
        assert_eq!((&said["balanced"], &said["sheet"]["difference"]), (&json!(true), &Value::Null));
        let mut counts = BTreeMap::new();
        for campaign in said["sheet"]["campaigns"].as_array().unwrap() {
            counts.insert(
                campaign["campaign_id"].clone().to_string(),
                COLUMNS.map(|name| campaign[name].clone()),
            );
        }
        let expected = [(scene.campaign, 20, 20), (scene.other, 10, 0)];
        let expected =
            expected.map(|(id, count, settled)| (json!(id).to_string(), columns(count, settled, full)));
        assert_eq!(counts, expected.into());
        let compared =
            json!({ "events": head, "missing_from_stream": 0, "more_in_stream": 0, "different": 0 });
        assert_eq!(said["sheet"]["shards"][0]["compared"], if full { compared } else { Value::Null });
    }
    let sheet = scene.world.coupon(QUICK).await.out;
    let line = sheet.lines().find(|line| line.starts_with(&scene.other.to_string())).unwrap();
    assert_eq!(line.split_whitespace().skip(1).collect::<Vec<_>>(), ["10", "10", "10", "-", "10", "-", "-"]);
    let stream = jetstream::new(scene.world.nats().await).get_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    wait_until("the auditors' consumers are gone", SOON, async || {
        stream.get_info().await.unwrap().state.consumer_count == 1 // of the projections
    })
    .await;
    scene.world.close().await;
}

const COLUMNS: [&str; 8] =
    ["gate", "coupons", "stream", "issued", "outbox", "wallet", "settlement", "settlement_amount"];

/// What only rows could tell is not in a quick sheet.
fn columns(count: i64, settled: i64, full: bool) -> [Value; 8] {
    let counted = |count| if full { json!(count) } else { Value::Null };
    let known = json!(count);
    let rows = [count, count, count, settled, settled * 500].map(counted);
    let [issued, outbox, wallet, settlement, amount] = rows;
    [known.clone(), known.clone(), known, issued, outbox, wallet, settlement, amount]
}

#[tokio::test]
async fn a_row_that_is_missing_or_too_much_is_named() {
    let mut scene = Scene::start().await;
    scene.world.processes[0].kill(); // its sweeper would put the gate right
    let (campaign, coupon) = (scene.campaign.to_string(), scene.coupon.to_string());

    let row = scene.take("coupons", &scene.is_the_coupon("id")).await;
    scene.assert_named(FULL, &[&campaign, &coupon, "19 coupons, numbered up to 20"]).await;
    scene.assert_named(&["audit", "--full", "--campaign", &campaign], &[&campaign]).await;
    scene.assert_balanced(&["audit", "--full", "--campaign", &scene.other.to_string()]).await;
    let finished = scene.world.coupon(&["audit", "--full", "--json"]).await;
    let said: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!((finished.code, &said["balanced"]), (Some(1), &json!(false)));
    assert!(said["sheet"]["difference"].as_str().unwrap().contains(&campaign));
    scene.assert_balanced(QUICK).await; // the numbers say that there are 20

    // Nothing is left of the coupon but its event.
    let wallet = scene.take("wallet", &scene.is_the_coupon("coupon_id")).await;
    let settlement = scene.take("settlement_entries", &scene.is_the_coupon("coupon_id")).await;
    let () = scene.world.redis().await.srem(scene.holders(), &scene.user).await.unwrap();
    scene.assert_named(FULL, &[&campaign, &coupon, "outbox"]).await;
    let () = scene.world.redis().await.sadd(scene.holders(), &scene.user).await.unwrap();
    for row in [row, settlement] {
        scene.put(row).await;
    }

    scene.assert_named(FULL, &[&campaign, &coupon, "19 are in the wallet"]).await;
    scene.put(wallet).await;
    let settlement = scene.take("settlement_entries", &scene.is_the_coupon("coupon_id")).await;
    scene.assert_named(FULL, &[&campaign, &coupon, "19 are in the settlement"]).await;
    scene.put(settlement).await;

    for (table, columns, column) in [
        (
            "wallet",
            "user_id, '{}', campaign_id, 99, face_value, currency, state, issued_at, expires_at",
            "coupon_id",
        ),
        (
            "settlement_entries",
            "'{}', kind, campaign_id, merchant_id, amount, currency, event_id, occurred_at",
            "coupon_id",
        ),
    ] {
        let extra = Ulid::generate();
        let columns = columns.replace("{}", &Uuid::from(extra).to_string());
        let condition = scene.is_the_coupon(column);
        scene.execute(&format!("INSERT INTO {table} SELECT {columns} FROM {table} WHERE {condition}")).await;
        let name = table.trim_end_matches("_entries");
        scene.assert_named(FULL, &[&campaign, &extra.to_string(), &format!("21 are in the {name}")]).await;
        scene.take(table, &format!("{column} = '{}'", Uuid::from(extra))).await;
    }

    let stranger = Ulid::generate();
    let of_nobody = format!(
        "user_id, '{0}', '{0}', number, face_value, currency, state, issued_at, expires_at",
        Uuid::from(stranger)
    );
    let condition = scene.is_the_coupon("coupon_id");
    scene.execute(&format!("INSERT INTO wallet SELECT {of_nobody} FROM wallet WHERE {condition}")).await;
    scene.assert_named(FULL, &[&format!("rows of campaign {stranger}, and no such campaign")]).await;
    scene.take("wallet", &format!("coupon_id = '{}'", Uuid::from(stranger))).await;
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}

/// A row of the outbox: the stream has one event more, and a coupon of which nobody told.
#[tokio::test]
async fn an_event_that_is_gone_or_told_twice_is_named() {
    let scene = Scene::start().await;
    let (campaign, coupon) = (scene.campaign.to_string(), scene.coupon.to_string());
    let events = scene.world.outbox(SHARD).await;
    let event = events.iter().find(|event| event.subject == coupon).unwrap();
    let of_the_event = format!("shard = 0 AND position = {}", event.position);

    let row = scene.take("outbox", &of_the_event).await;
    let words = ["19 are in the outbox", "does not tell of the coupon with number 10"];
    scene.assert_named(FULL, &[&[campaign.as_str()][..], &words].concat()).await;
    let finished = scene.world.coupon(&["audit", "--full", "--json"]).await;
    let said: Value = serde_json::from_str(&finished.out).unwrap();
    let compared = json!({
        "events": events.len() - 1, "missing_from_stream": 0, "more_in_stream": 1, "different": 0,
    });
    assert_eq!(said["sheet"]["shards"][0]["compared"], compared);
    scene.put(row).await;

    // One event tells of another's coupon: the counts agree.
    let told_before = events.iter().find(|other| other.kind == "issued" && other.key == campaign).unwrap();
    let (subject, data) = (&told_before.subject, &told_before.data);
    scene
        .execute(&format!("UPDATE outbox SET subject = '{subject}', data = '{data}' WHERE {of_the_event}"))
        .await;
    scene.assert_named(FULL, &[&campaign, subject, &format!("position {}", event.position), "before"]).await;
    let (subject, data) = (&event.subject, &event.data);
    scene
        .execute(&format!("UPDATE outbox SET subject = '{subject}', data = '{data}' WHERE {of_the_event}"))
        .await;
    scene.assert_balanced(FULL).await;

    // What is past retention is gone from the beginning of the outbox, and nothing is wrong.
    for statement in [
        "CREATE TABLE kept AS SELECT * FROM outbox WHERE position <= 12",
        "DELETE FROM outbox WHERE position <= 12",
    ] {
        sqlx::query(statement).execute(&scene.world.pool).await.unwrap();
    }
    for arguments in [QUICK, FULL] {
        scene.assert_balanced(arguments).await;
    }
    let said = scene.world.coupon(FULL).await.out;
    let compared = format!("{} events compared from position 13 on: 0 missing", events.len() - 12);
    assert!(said.contains(&compared), "{said}");
    let wallet = scene.take("wallet", &format!("number = 1 AND {}", scene.is_the_campaign())).await;
    scene.assert_named(FULL, &[&campaign, "19 are in the wallet", "coupon 01"]).await;
    scene.put(wallet).await;
    sqlx::query("INSERT INTO outbox SELECT * FROM kept").execute(&scene.world.pool).await.unwrap();
    scene.world.close().await;
}

#[tokio::test]
async fn an_amount_that_is_another_is_named() {
    let scene = Scene::start().await;
    let of_the_coupon = scene.is_the_coupon("coupon_id");
    for amount in [501, 499] {
        scene
            .execute(&format!("UPDATE settlement_entries SET amount = {amount} WHERE {of_the_coupon}"))
            .await;
        let settled = format!("20 coupons of 500 settle to {}", 19 * 500 + amount);
        scene.assert_named(FULL, &[&scene.campaign.to_string(), &scene.coupon.to_string(), &settled]).await;
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
    scene.assert_named(QUICK, &[&ends]).await;
    scene.assert_named(FULL, &[&format!("stream COUPONS-0 has a-stranger at {end}")]).await;
    scene.world.processes[1].kill();
    forget_position(&scene.world, end).await;
    scene.remake_stream_without_relay().await;
    scene.world.processes[1].start().await;
    scene.world.close().await;
}

/// A gap on either side does not end the comparison.
#[tokio::test]
async fn the_first_difference_is_named_and_all_are_counted() {
    let mut scene = Scene::start().await;
    let context = jetstream::new(scene.world.nats().await);
    let events = scene.world.outbox(SHARD).await;
    let compared = async |scene: &Scene| {
        let finished = scene.world.coupon(&["audit", "--full", "--json"]).await;
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let said: Value = serde_json::from_str(&finished.out).unwrap();
        said["sheet"]["shards"][0]["compared"].clone()
    };
    let stream = context.get_stream(OUTLET.stream_of(SHARD)).await.unwrap();
    for position in [3, 7, events.len() as u64] {
        stream.delete_message(position).await.unwrap();
    }
    let first = format!("position 3 is event {} in the outbox; stream COUPONS-0 goes on with", events[2].id);
    scene.assert_named(FULL, &[&first]).await;
    let row = scene.take("outbox", "position = 5").await;
    let totals = json!({
        "events": events.len() - 4, "missing_from_stream": 3, "more_in_stream": 1, "different": 0,
    });
    assert_eq!(compared(&scene).await, totals);
    scene.put(row).await;

    // Without its beginning; then with nothing at all.
    for kept in [events.len() as u64 - 9, 0] {
        let purge = stream.purge().sequence(events.len() as u64 + 1 - kept);
        purge.await.unwrap();
        let first = format!("position 1 is event {} in the outbox", events[0].id);
        scene.assert_named(FULL, &[&first]).await;
        let counted = compared(&scene).await;
        assert_eq!(counted["missing_from_stream"], json!(events.len() as u64 - kept.saturating_sub(1)));
        let missing = format!("{} messages are missing", counted["missing_from_stream"]);
        scene.assert_named(&["audit", "--campaign", &Ulid::nil().to_string()], &[&missing]).await;
    }
    scene.remake_stream().await;
    scene.assert_balanced(FULL).await;
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
    scene.assert_named(FULL, &[&scene.campaign.to_string(), "wallet", coupon]).await;
    let late = format!("wallet has applied shard 0 up to {head}, the outbox ends at {}", head + 1);
    for arguments in [QUICK, &of_shard] {
        scene.assert_named(arguments, &[&late]).await;
    }
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
