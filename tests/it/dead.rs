//! Events that a projection cannot apply are parked, and hold up nothing else.

use async_nats::jetstream;
use coupon_dispatcher::event::OUTLET;
use outbox_relay::dead::{ATTEMPTS_HEADER, PROJECTION_HEADER, REASON_HEADER};
use outbox_relay::event::{EVENT_ID_HEADER, POSITION_HEADER};
use outbox_relay::{Shard, stream};
use serde_json::{Value, json};

use crate::support::{SOON, World, owns, wait_for, wait_until};

const SHARD: Shard = Shard(0);
const USERS: usize = 40;
/// Those whose name ends in 7.
const POISONED: usize = 4;

impl World {
    pub(crate) async fn execute(&self, statement: &str) {
        sqlx::raw_sql(statement).execute(&self.pool).await.unwrap();
    }

    /// Coupons, of which the wallet refuses some.
    async fn poison(&self) {
        self.execute("ALTER TABLE wallet ADD CONSTRAINT poison CHECK (user_id NOT LIKE '%7')").await;
        let campaign = self.open_campaign(json!({ "quantity": USERS })).await;
        for user in 0..USERS {
            assert_eq!(self.claim(campaign, &format!("user-{user}")).await.status, 201);
        }
    }

    async fn count(&self, table: &str) -> usize {
        let count: i64 =
            sqlx::query_scalar(&format!("SELECT count(*) FROM {table}")).fetch_one(&self.pool).await.unwrap();
        usize::try_from(count).unwrap()
    }

    /// All is applied, or parked.
    pub(crate) async fn passed(&self) {
        wait_until("all is applied or parked", SOON, async || {
            let position = sqlx::query_scalar("SELECT projection_position('wallet', 0::smallint)");
            position.fetch_one(&self.pool).await.unwrap_or(0i64) == self.head(SHARD).await
        })
        .await;
    }

    pub(crate) async fn dead_letters(&self) -> Vec<Value> {
        let listed = self.coupon(&["dead", "list", "--json"]).await;
        assert_eq!(listed.code, Some(0), "{listed:?}");
        let listed: Value = serde_json::from_str(&listed.out).unwrap();
        listed["items"].as_array().unwrap().clone()
    }

    pub(crate) async fn letter(&self, action: &str, position: &Value) {
        let done = self.coupon(&["dead", action, "wallet", &position.to_string()]).await;
        assert_eq!(done.code, Some(0), "{done:?}");
    }
}

#[tokio::test]
async fn a_poison_event_is_parked_and_can_be_redriven() {
    let fault = owns("event-poison");
    let world = World::with_processes(&["api,relay", "project"]).await;
    world.poison().await;
    fault.fired(1);
    world.passed().await;
    assert_eq!(world.count("settlement_entries").await, USERS, "the other projection has all");
    assert_eq!(world.count("wallet").await, USERS - POISONED);
    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), POISONED);
    let messages = world.messages("COUPONS-DEAD").await;
    assert_eq!(messages.len(), POISONED);
    let events = world.outbox(SHARD).await;
    for (letter, message) in letters.iter().zip(&messages) {
        let event = events.iter().find(|event| letter["position"] == event.position).unwrap();
        assert!(event.data.contains("7\""), "{}", event.data);
        assert_eq!((&letter["projection"], &letter["attempts"]), (&json!("wallet"), &json!(5)));
        assert!(letter["reason"].as_str().unwrap().contains("\"poison\""), "{letter}");
        assert_eq!(message.subject.as_str(), format!("dead.coupons.wallet.0.{}", event.position));
        assert_eq!(message.payload, event.body(&OUTLET));
        let header = |name: &str| message.headers.as_ref().unwrap().get(name).map(ToString::to_string);
        assert_eq!(header(EVENT_ID_HEADER), Some(event.id.to_string()));
        assert_eq!(header(POSITION_HEADER), Some(event.position.to_string()));
        assert_eq!(header(PROJECTION_HEADER).as_deref(), Some("wallet"));
        assert_eq!(header(ATTEMPTS_HEADER).as_deref(), Some("5"));
        assert_eq!(header(REASON_HEADER).as_deref(), letter["reason"].as_str());
    }
    let shown =
        world.coupon(&["dead", "show", "wallet", &letters[0]["position"].to_string(), "--json"]).await;
    let shown: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!((&shown["parked"], &shown["event"]["id"]), (&letters[0], &letters[0]["event_id"]));

    let audited = world.coupon(&["audit"]).await;
    let parked =
        format!("4 events of shard 0 are parked for wallet, the first at {}", letters[0]["position"]);
    assert_eq!(audited.code, Some(1));
    assert!(audited.out.contains(&parked), "{audited:?}");

    // Still poison: it stays. And what is not parked cannot be redriven.
    let position = letters[0]["position"].to_string();
    for (action, position, reason) in [
        ("redrive", position.as_str(), "poison"),
        ("redrive", "1", "no event is parked"),
        ("drop", "1", "no event"),
    ] {
        let confirmed: &[&str] = if action == "drop" { &["--yes"] } else { &[] };
        let refused = world.coupon(&[&["dead", action, "wallet", position], confirmed].concat()).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.err.contains(reason), "{refused:?}");
    }
    assert_eq!(world.dead_letters().await, letters);

    world.execute("ALTER TABLE wallet DROP CONSTRAINT poison").await;
    for letter in &letters {
        world.letter("redrive", &letter["position"]).await;
    }
    assert!(world.dead_letters().await.is_empty());
    assert_eq!(world.messages("COUPONS-DEAD").await.len(), 0);
    fault.healed();
    world.close().await;
}

/// As when the command is killed in between: the event is applied, or given up, and its letter is there.
#[tokio::test]
async fn a_letter_that_was_left_behind_goes_when_the_command_is_repeated() {
    let world = World::with_processes(&["api,relay", "project"]).await;
    world.poison().await;
    world.passed().await;
    let letters = world.dead_letters().await;
    world.execute("ALTER TABLE wallet DROP CONSTRAINT poison").await;
    let stream = jetstream::new(world.nats().await).get_stream("COUPONS-DEAD").await.unwrap();
    for (left, action) in ["redrive", "drop"].into_iter().enumerate() {
        let position = &letters[left]["position"];
        let subject = format!("dead.coupons.wallet.0.{position}");
        let letter = stream.get_last_raw_message_by_subject(&subject).await.unwrap();
        world.letter("redrive", position).await;
        let copy = jetstream::message::PublishMessage::build().payload(letter.payload);
        jetstream::new(world.nats().await).send_publish(subject, copy).await.unwrap().await.unwrap();
        let confirmed: &[&str] = if action == "drop" { &["--yes"] } else { &[] };
        let position = position.to_string();
        let again = world.coupon(&[&["dead", action, "wallet", &position], confirmed].concat()).await;
        assert_eq!(again.code, Some(1), "{again:?}");
        assert!(again.err.contains("no event is parked"), "{again:?}");
        assert_eq!(world.messages("COUPONS-DEAD").await.len(), POISONED - 1 - left);
    }
    for letter in &letters[2..] {
        world.letter("redrive", &letter["position"]).await;
    }
    world.close().await;
}

/// As when the process is killed in between: the letter is there, and the event is not yet parked.
#[tokio::test]
async fn a_letter_is_written_once_however_often_its_event_is_parked() {
    let world = World::with_processes(&["api,relay", "project"]).await;
    world
        .execute(
            "ALTER TABLE wallet ADD CONSTRAINT poison CHECK (user_id <> 'mallory');
             CREATE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
             CREATE TRIGGER broken AFTER INSERT ON parked_events FOR EACH ROW EXECUTE FUNCTION break()",
        )
        .await;
    let campaign = world.open_campaign(json!({ "quantity": 1 })).await;
    world.claim(campaign, "mallory").await;
    wait_until("parking fails, again and again", SOON, async || {
        world.processes[1].log().matches("projector starts over").count() > 2
    })
    .await;
    world.execute("DROP TRIGGER broken ON parked_events").await;
    world.passed().await;
    assert_eq!((world.messages("COUPONS-DEAD").await.len(), world.dead_letters().await.len()), (1, 1));
    world.execute("ALTER TABLE wallet DROP CONSTRAINT poison").await;
    world.letter("redrive", &world.dead_letters().await[0]["position"]).await;
    world.close().await;
}

#[tokio::test]
async fn a_full_stream_of_dead_letters_holds_the_projections_up() {
    let fault = owns("letters-full");
    let world = World::with_processes(&["api,relay", "project"]).await;
    let nats = world.nats().await;
    let made = wait_for("the streams are there", SOON, async || stream::of_dead(&nats, &OUTLET).await.ok());
    let config = made.await.cached_info().config.clone();
    let takes = async |max_messages| {
        let config = jetstream::stream::Config { max_messages, ..config.clone() };
        jetstream::new(nats.clone()).update_stream(config).await.unwrap();
    };
    takes(1).await;
    fault.fired(1);
    world.poison().await;
    wait_until("the second letter is refused, again and again", SOON, async || {
        world.processes[1].log().matches("projector starts over").count() > 2
    })
    .await;
    assert_eq!(world.dead_letters().await.len(), 1, "nothing is left out without a letter");
    takes(100).await;
    world.passed().await;
    let letters = world.dead_letters().await;
    assert_eq!((letters.len(), world.messages("COUPONS-DEAD").await.len()), (POISONED, POISONED));
    world.execute("ALTER TABLE wallet DROP CONSTRAINT poison").await;
    for letter in &letters {
        world.letter("redrive", &letter["position"]).await;
    }
    fault.healed();
    world.close().await;
}
