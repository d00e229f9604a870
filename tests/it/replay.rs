//! Events again: those that were asked for, the same in all but the message id, and to nobody else.

use std::collections::BTreeMap;

use async_nats::jetstream::{self, Message};
use coupon_dispatcher::campaign::CampaignId;
use coupon_dispatcher::event::OUTLET;
use futures_util::{StreamExt as _, TryStreamExt as _};
use outbox_relay::Shard;
use outbox_relay::event::{EVENT_ID_HEADER, POSITION_HEADER, SHARD_HEADER, StoredEvent};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;

use crate::support::{SOON, World};

const SHARDS: i16 = 2;
const STREAM: &str = "COUPONS-REPLAY";

/// Two campaigns, of different shards, sold out; one of them is closed.
async fn sold_out() -> (World, [CampaignId; 2]) {
    let mut world = World::bare(SHARDS).await;
    world.migrate().await;
    world.add_process("").await;
    let mut campaigns = Vec::new();
    for shard in (0..SHARDS).map(Shard) {
        let campaign = loop {
            let campaign = world.create_campaign(json!({ "quantity": 300 })).await;
            if campaign.shard(SHARDS) == shard {
                break campaign;
            }
        };
        let opened = world.api().post(&format!("/v1/campaigns/{campaign}/open"), &json!(null)).await;
        assert_eq!(opened.status, 200);
        world.answered(&world.rush(campaign, 320).run().await);
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
    async fn all_events(&self) -> Vec<StoredEvent> {
        [self.outbox(Shard(0)).await, self.outbox(Shard(1)).await].concat()
    }

    /// All that can be seen of tables and streams, without what was replayed.
    async fn traces(&self) -> BTreeMap<String, String> {
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT table_name::text FROM information_schema.tables \
             WHERE table_schema = 'public' AND table_type = 'BASE TABLE'",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let mut traces = BTreeMap::new();
        for table in tables {
            let statement = format!(
                "SELECT coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM {table} AS t"
            );
            let sum: String = sqlx::query_scalar(&statement).fetch_one(&self.pool).await.unwrap();
            traces.insert(table, sum);
        }
        let context = jetstream::new(self.nats().await);
        let names: Vec<String> = context.stream_names().try_collect().await.unwrap();
        for name in names.into_iter().filter(|name| name != STREAM) {
            let mut stream = context.get_stream(&name).await.unwrap();
            let state = &stream.info().await.unwrap().state;
            let messages =
                format!("{} in {} bytes up to {}", state.messages, state.bytes, state.last_sequence);
            traces.insert(format!("{name}, messages"), messages);
            let mut consumer: jetstream::consumer::PullConsumer =
                stream.get_consumer("projections").await.unwrap();
            let delivered = consumer.info().await.unwrap().delivered.stream_sequence;
            traces.insert(format!("{name}, delivered"), delivered.to_string());
        }
        traces
    }

    async fn replayed(&self, run: &str) -> Vec<Message> {
        let mut messages = self.messages(STREAM).await;
        messages.retain(|message| message.subject.starts_with(&format!("replay.{run}.")));
        messages
    }
}

/// Arguments, and which events they select.
type Filter<'a> = (&'a [&'a str], &'a dyn Fn(&StoredEvent) -> bool);

/// The messages of a run are these events, in this order.
fn assert_replayed(run: &str, messages: &[Message], events: &[&StoredEvent]) {
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
    let (world, _) = sold_out().await;
    let events = world.all_events().await;
    let before = world.traces().await;
    let said = replay(&world, "dry", &["--dry-run"]).await;
    let bytes: usize = events.iter().map(|event| event.data.len()).sum();
    let part = |shard: i16| {
        let part: Vec<i64> = events.iter().filter(|e| e.shard.0 == shard).map(|e| e.position).collect();
        json!({ "shard": shard, "events": part.len(), "first": part[0], "last": part[part.len() - 1] })
    };
    let expected = json!({
        "run": "dry", "subject": "replay.dry.>", "stream": STREAM, "dry_run": true,
        "events": events.len(), "bytes": bytes, "shards": [part(0), part(1)],
    });
    assert_eq!(said, expected);
    assert_eq!(world.traces().await, before);
    let context = jetstream::new(world.nats().await);
    assert!(context.get_stream(STREAM).await.is_err(), "the stream of replays was made");
    world.close().await;
}

#[tokio::test]
async fn a_filter_selects_and_nothing_else_changes() {
    let (world, [first, second]) = sold_out().await;
    let events = world.all_events().await;
    let (first, second) = (first.to_string(), second.to_string());
    let (early, late) = (events[20].time, events[450].time);
    let (since, until) = (early.format(&Rfc3339).unwrap(), late.format(&Rfc3339).unwrap());
    let filters: [Filter<'_>; 9] = [
        (&[], &|_| true),
        (&["--campaign", &first], &|event| event.key == first),
        (&["--campaign", &first, "--campaign", &second], &|_| true),
        (&["--type", "issued"], &|event| event.kind == "issued"),
        (&["--type", "campaign-sold-out", "--type", "campaign-closed"], &|event| {
            ["campaign-sold-out", "campaign-closed"].contains(&event.kind.as_str())
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
        let said = replay(&world, &run, arguments).await;
        let expected: Vec<&StoredEvent> = events.iter().filter(|event| selects(event)).collect();
        assert_eq!(
            (&said["events"], &said["dry_run"]),
            (&json!(expected.len()), &json!(false)),
            "{arguments:?}"
        );
        assert_replayed(&run, &world.replayed(&run).await, &expected);
    }
    world.close().await;
}

#[tokio::test]
async fn a_run_that_is_repeated_adds_nothing() {
    let (world, [first, _]) = sold_out().await;
    let events = world.outbox(Shard(0)).await;
    let part = ["--to", "120", "--campaign", &first.to_string()];
    replay(&world, "again", &part).await;
    assert_eq!(world.replayed("again").await.len(), 120);
    for _ in 0..2 {
        replay(&world, "again", &part[2..]).await;
        assert_replayed("again", &world.replayed("again").await, &events.iter().collect::<Vec<_>>());
    }
    replay(&world, "another", &part[2..]).await;
    assert_eq!(world.messages(STREAM).await.len(), 2 * events.len());
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
    let before = world.traces().await;
    replay(&world, "mine", &[]).await;
    replay(&world, "yours", &[]).await;

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
    assert_eq!(world.traces().await, before);
    world.close().await;
}
