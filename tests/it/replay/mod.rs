//! Events again: those that were asked for, the same in all but the message id, and to nobody else.

mod late;
mod runs;
mod traces;

use async_nats::jetstream::{self, Message};
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::ids::CampaignId;
use futures_util::StreamExt as _;
use outbox_relay::Shard;
use outbox_relay::event::{EVENT_ID_HEADER, POSITION_HEADER, SHARD_HEADER, StoredEvent};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;

use self::traces::assert_same;
use crate::support::{SOON, World};

const SHARDS: i16 = 2;
const STREAM: &str = "COUPONS-REPLAY";

/// Two campaigns, of different shards, sold out; one of them is closed.
pub(crate) async fn sold_out() -> (World, [CampaignId; 2]) {
    let mut world = World::bare(SHARDS).await;
    world.migrate().await;
    world.add_process("").await;
    let mut campaigns = Vec::new();
    for shard in (0..SHARDS).map(Shard) {
        let campaign = loop {
            let merchant = format!("merchant-{}", shard.0 + 1);
            let fields = json!({ "quantity": 300, "merchant_id": merchant });
            let campaign = world.create_campaign(fields).await;
            if campaign.shard(SHARDS) == shard {
                break campaign;
            }
        };
        let opened = world.api().post(&format!("/v1/campaigns/{campaign}/open"), &json!(null)).await;
        assert_eq!(opened.status, 200);
        world.answered(&world.rush(campaign, 320).run().await).await;
        campaigns.push(campaign);
    }
    let closed = world.api().post(&format!("/v1/campaigns/{}/close", campaigns[1]), &json!(null)).await;
    assert_eq!(closed.status, 200);
    world.balanced().await;
    (world, campaigns.try_into().unwrap())
}

/// `coupon replay`, and what it says in JSON.
async fn replay(world: &World, run: &str, arguments: &[&str]) -> Value {
    let finished = world.coupon(&[&["replay", "--json", "--run", run], arguments].concat()).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    serde_json::from_str(&finished.out).unwrap()
}

impl World {
    /// All events, shard by shard.
    pub(crate) async fn all_events(&self) -> Vec<StoredEvent> {
        [self.outbox(Shard(0)).await, self.outbox(Shard(1)).await].concat()
    }

    /// The messages of a run.
    pub(crate) async fn replayed(&self, run: &str) -> Vec<Message> {
        let mut messages = self.messages(STREAM).await;
        messages.retain(|message| message.subject.starts_with(&format!("replay.{run}.")));
        messages
    }
}

/// A text of an event's data.
fn field(event: &StoredEvent, name: &str) -> Option<String> {
    let data: Value = serde_json::from_str(&event.data).unwrap();
    data[name].as_str().map(str::to_owned)
}

/// Arguments, and which events they select.
type Filter<'a> = (&'a [&'a str], &'a dyn Fn(&StoredEvent) -> bool);

/// The messages of a run are these events, in this order.
pub(crate) fn assert_replayed(run: &str, messages: &[Message], events: &[&StoredEvent]) {
    assert_eq!(messages.len(), events.len(), "{run}");
    for (message, event) in messages.iter().zip(events) {
        let header = |name: &str| message.headers.as_ref().unwrap().get(name).map(ToString::to_string);
        let StoredEvent { shard, position, id, kind, key, .. } = event;
        assert_eq!(message.subject.as_str(), format!("replay.{run}.{kind}.{key}.{shard}"));
        assert_eq!(header(EVENT_ID_HEADER), Some(id.to_string()));
        assert_eq!(header("Nats-Msg-Id"), Some(format!("{id}.{run}")));
        assert_eq!(header(POSITION_HEADER), Some(position.to_string()));
        assert_eq!(header(SHARD_HEADER), Some(shard.to_string()));
        assert_eq!(header("content-type").as_deref(), Some("application/cloudevents+json"));
        assert_eq!(message.payload, event.body(&OUTLET));
    }
}

#[tokio::test]
async fn a_dry_run_touches_nothing() {
    let (world, [first, _]) = sold_out().await;
    let events = world.all_events().await;
    let before = world.traces().await;
    let said = replay(&world, "dry", &["--dry-run", "--rate", "7"]).await;
    let bytes: usize = events.iter().map(|event| event.data.len()).sum();
    let part = |shard: i16| {
        let part: Vec<_> = events.iter().filter(|event| event.shard.0 == shard).collect();
        json!({
            "shard": shard, "events": part.len(), "available_from": null,
            "first": part[0].position, "last": part[part.len() - 1].position,
            "data_bytes": part.iter().map(|event| event.data.len()).sum::<usize>(),
        })
    };
    let expected = json!({
        "run": "dry", "subject": "replay.dry.>", "stream": STREAM, "outcome": "planned", "stored": 0,
        "events": events.len(), "data_bytes": bytes, "rate": 7, "duration_s": events.len().div_ceil(7),
        "shards": [part(0), part(1)],
    });
    assert_eq!(said, expected);
    let first = first.to_string();
    let finished = world.coupon(&["replay", "--dry-run", "--campaign", &first, "--rate", "3"]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let said = ["shard 0: 302 events, positions 1 to 302", "shard 1: 0 events", "00:01:41 at 3 events/s"];
    assert!(said.iter().all(|part| finished.out.contains(part)), "{finished:?}");

    assert_same(&before, &world.traces().await);
    let context = jetstream::new(world.nats().await);
    assert!(context.get_stream(STREAM).await.is_err(), "the stream of replays was made");
    world.close().await;
}

#[tokio::test]
async fn a_filter_selects_and_nothing_else_changes() {
    let (world, [first, second]) = sold_out().await;
    let events = world.all_events().await;
    let before = world.traces_beside_replays().await;
    let (first, second) = (first.to_string(), second.to_string());
    let (early, late) = (events[20].time, events[450].time);
    let (since, until) = (early.format(&Rfc3339).unwrap(), late.format(&Rfc3339).unwrap());
    let user = events.iter().find_map(|event| field(event, "user_id")).unwrap();
    let of_user = |event: &StoredEvent| field(event, "user_id").as_ref() == Some(&user);
    assert!(events.iter().filter(|event| of_user(event)).count() >= 1);
    let filters: [Filter<'_>; 14] = [
        (&["--all"], &|_| true),
        (&["--campaign", &first], &|event| event.key == first),
        (&["--campaign", &first, "--campaign", &second], &|_| true),
        (&["--type", "issued"], &|event| event.kind == "issued"),
        (&["--type", "campaign-sold-out", "--type", "campaign-closed"], &|event| {
            ["campaign-sold-out", "campaign-closed"].contains(&event.kind.as_str())
        }),
        (&["--user", &user], &of_user),
        (&["--user", &user, "--campaign", &second], &|event| of_user(event) && event.key == second),
        (&["--user", "nobody"], &|_| false),
        (&["--merchant", "merchant-1"], &|event| event.key == first),
        (&["--merchant", "merchant-2", "--type", "issued", "--user", &user], &|event| {
            event.key == second && event.kind == "issued" && of_user(event)
        }),
        (&["--from", "17", "--to", "23"], &|event| (17..=23).contains(&event.position)),
        (&["--since", &since, "--until", &until], &|event| early <= event.time && event.time < late),
        (&["--campaign", &second, "--type", "issued", "--from", "100", "--until", &until], &|event| {
            event.key == second && event.kind == "issued" && event.position >= 100 && event.time < late
        }),
        (&["--from", "100000"], &|_| false),
    ];
    for (number, (arguments, selects)) in filters.into_iter().enumerate() {
        let run = format!("run-{number}");
        let expected: Vec<&StoredEvent> = events.iter().filter(|event| selects(event)).collect();
        if expected.is_empty() {
            let finished = world.coupon(&[&["replay", "--json", "--run", &run], arguments].concat()).await;
            assert_eq!((finished.code, finished.out.as_str()), (Some(5), ""), "{finished:?}");
            assert!(finished.err.contains("nothing to replay"), "{finished:?}");
            continue;
        }
        let said = replay(&world, &run, arguments).await;
        let count = json!(expected.len());
        assert_eq!((&said["events"], &said["stored"]), (&count, &count), "{arguments:?}");
        assert_eq!(said["outcome"], "done");
        assert_replayed(&run, &world.replayed(&run).await, &expected);
    }
    assert_same(&before, &world.traces_beside_replays().await);
    world.close().await;
}

#[tokio::test]
async fn a_plan_says_where_the_outbox_begins() {
    let (world, _) = sold_out().await;
    let events = world.all_events().await;
    let change = async |statements: &str| {
        sqlx::raw_sql(statements).execute(&world.pool).await.unwrap();
    };
    change(
        "CREATE TABLE kept AS SELECT * FROM outbox WHERE shard = 1 AND position <= 40;
         DELETE FROM outbox WHERE shard = 1 AND position <= 40",
    )
    .await;
    let begins = async |run: &str, arguments: &[&str]| {
        let said = replay(&world, run, arguments).await;
        let shards = said["shards"].as_array().unwrap();
        (shards[0]["available_from"].clone(), shards[1]["available_from"].clone())
    };
    assert_eq!(begins("all", &["--all"]).await, (json!(null), json!(41)));
    assert_eq!(begins("below", &["--from", "40", "--dry-run"]).await, (json!(null), json!(41)));
    assert_eq!(begins("above", &["--from", "41", "--dry-run"]).await, (json!(null), json!(null)));
    let later = events.last().unwrap().time.format(&Rfc3339).unwrap();
    assert_eq!(begins("later", &["--since", &later, "--dry-run"]).await, (json!(null), json!(null)));
    let finished = world.coupon(&["replay", "--dry-run"]).await;
    assert!(finished.out.contains("the outbox begins at position 41"), "{finished:?}");
    let there: Vec<_> = events.iter().filter(|event| event.shard.0 == 0 || event.position > 40).collect();
    assert_replayed("all", &world.replayed("all").await, &there);
    change("INSERT INTO outbox SELECT * FROM kept; DROP TABLE kept").await;
    world.close().await;
}

#[tokio::test]
async fn a_replay_reaches_who_asked_for_it_and_disturbs_nobody() {
    let (world, _) = sold_out().await;
    let events = world.all_events().await;
    let nats = world.nats().await;
    let mut others = nats.subscribe("coupons.>").await.unwrap();
    let mut named = nats.subscribe("replay.mine.>").await.unwrap();
    nats.flush().await.unwrap();
    let before = world.traces_beside_replays().await;
    replay(&world, "mine", &["--all"]).await;
    replay(&world, "yours", &["--all"]).await;
    assert_eq!(world.coupon(&["replay", "--cancel", "yours", "--yes"]).await.code, Some(0));

    for event in &events {
        let message = timeout(SOON, named.next()).await.expect("a replayed event").unwrap();
        let id = message.headers.unwrap().get(EVENT_ID_HEADER).map(ToString::to_string);
        assert_eq!(id, Some(event.id.to_string()));
    }
    // What comes after the replays comes first: nothing came between.
    nats.publish("coupons.end", "".into()).await.unwrap();
    nats.publish("replay.mine.end", "".into()).await.unwrap();
    assert_eq!(others.next().await.unwrap().subject.as_str(), "coupons.end");
    assert_eq!(named.next().await.unwrap().subject.as_str(), "replay.mine.end");
    world.balanced().await;
    assert_same(&before, &world.traces_beside_replays().await);
    world.close().await;
}
