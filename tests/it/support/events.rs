//! What is in the outbox, and what is in the stream.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{self, Message};
use coupon_dispatcher::event::{KINDS, OUTLET};
use futures_util::{StreamExt as _, TryStreamExt as _};
use outbox_relay::event::{POSITION_HEADER, SHARD_HEADER, StoredEvent};
use outbox_relay::{Event, Shard};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;

use super::{DRAIN_LIMIT, SOON, World, asyncapi, wait_for, wait_until};

impl World {
    /// All events of a shard, in order of position.
    pub(crate) async fn outbox(&self, shard: Shard) -> Vec<StoredEvent> {
        // A new one: it has prepared nothing that a changed schema does not fit.
        let mut connection = PgConnection::connect(&self.servers.database_url()).await.unwrap();
        StoredEvent::between(&mut connection, shard, 0, i64::MAX).await.unwrap()
    }

    /// The highest position of a shard.
    pub(crate) async fn head(&self, shard: Shard) -> i64 {
        let head = sqlx::query_scalar("SELECT outbox_head($1)").bind(shard.0);
        head.fetch_one(&self.pool).await.unwrap()
    }

    /// As `outbox_append()` does, for events that were not appended but inserted.
    pub(crate) async fn note_heads(&self) {
        let heads = "INSERT INTO outbox_heads (shard, partition) \
                     SELECT shard, max(position) / 1000000 FROM outbox GROUP BY 1 \
                     ON CONFLICT (shard) DO UPDATE SET partition = excluded.partition";
        sqlx::query(heads).execute(&self.pool).await.unwrap();
    }

    /// The last sequence of a shard's stream, 0 while there is none.
    pub(crate) async fn end_of_stream(&self, shard: Shard) -> i64 {
        let context = jetstream::new(self.nats().await);
        let Ok(stream) = context.get_stream(OUTLET.stream_of(shard)).await else { return 0 };
        stream.cached_info().state.last_sequence.cast_signed()
    }

    /// Everything in a stream. A cluster that elects is asked again.
    pub(crate) async fn messages(&self, stream: &str) -> Vec<Message> {
        let messages = wait_for("the stream gives its messages", DRAIN_LIMIT, async || {
            self.try_messages(stream).await.ok()
        });
        messages.await
    }

    async fn try_messages(&self, stream: &str) -> Result<Vec<Message>, async_nats::Error> {
        let stream = jetstream::new(self.nats().await).get_stream(stream).await?;
        let count = usize::try_from(stream.cached_info().state.messages)?;
        let consumer = stream.create_consumer(pull::OrderedConfig::default()).await?;
        let messages = consumer.messages().await?.take(count).try_collect();
        Ok(timeout(SOON, messages).await??)
    }

    /// Waits until everything is published. Then each stream holds what the outbox holds: each event
    /// once, in the same order, at the sequence that is its position.
    pub(crate) async fn assert_published(&self) {
        for shard in (0..self.shards).map(Shard) {
            wait_until("everything is published", DRAIN_LIMIT, async || {
                self.end_of_stream(shard).await >= self.head(shard).await
            })
            .await;
            let events = self.outbox(shard).await;
            let messages =
                if events.is_empty() { vec![] } else { self.messages(&OUTLET.stream_of(shard)).await };
            assert_eq!(messages.len(), events.len(), "in stream and outbox of shard {shard}");
            for (event, message) in events.iter().zip(&messages) {
                let position = message.info().unwrap().stream_sequence.cast_signed();
                assert_eq!(position, event.position);
                assert_carries(message, event);
            }
        }
    }

    /// Waits until everything is published and projected, and agrees.
    pub(crate) async fn balanced(&self) {
        self.balanced_within(DRAIN_LIMIT).await;
    }

    pub(crate) async fn balanced_within(&self, limit: Duration) {
        let mut last = String::new();
        let drained = super::wait::within(limit, async || match self.sheet().await {
            Ok(sheet) => {
                last = sheet.to_string();
                sheet.is_balanced().then_some(())
            }
            Err(error) => {
                last = format!("{error:#}");
                None
            }
        });
        assert!(drained.await.is_some(), "the world does not balance:\n{last}");
    }

    /// The process of Postgres that serves whoever holds an advisory lock of this class.
    pub(crate) async fn leader(&self, class: &str, shard: Shard) -> i32 {
        wait_for("somebody leads", SOON, async || self.try_leader(class, shard).await).await
    }

    pub(crate) async fn try_leader(&self, class: &str, shard: Shard) -> Option<i32> {
        let pid = sqlx::query_scalar(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted \
             AND classid::bigint = hashtext($1)::bigint & 4294967295 AND objid::bigint = $2",
        );
        pid.bind(class).bind(i64::from(shard.0)).fetch_optional(&self.pool).await.unwrap()
    }
}

/// A message of a shard's stream is this event, in all its parts.
fn assert_carries(message: &Message, event: &StoredEvent) {
    let header = |name: &str| message.headers.as_ref().unwrap().get(name).map(ToString::to_string);
    assert_eq!(message.subject.as_str(), OUTLET.subject(&event.kind, &event.key, event.shard));
    for (name, value) in [
        ("Nats-Msg-Id", Some(event.id.to_string())),
        (POSITION_HEADER, Some(event.position.to_string())),
        (SHARD_HEADER, Some(event.shard.to_string())),
        ("content-type", Some("application/cloudevents+json".to_owned())),
        ("traceparent", event.traceparent.clone()),
        ("Request-Id", event.request_id.clone()),
    ] {
        assert_eq!(header(name), value, "{name} at {}", event.position);
    }
    let parsed = Event::parse(event.position, &message.payload).unwrap();
    assert_eq!((parsed.id, parsed.time), (event.id, event.time));
    let body: Value = serde_json::from_slice(&message.payload).unwrap();
    for (field, value) in [
        ("specversion", json!("1.0")),
        ("id", json!(event.id)),
        ("source", json!("/coupon-dispatcher")),
        ("type", json!(format!("coupon.{}.v1", event.kind))),
        ("subject", json!(event.subject)),
        ("datacontenttype", json!("application/json")),
        ("data", serde_json::from_str(&event.data).unwrap()),
    ] {
        assert_eq!(body[field], value, "{field} at {}", event.position);
    }
    if KINDS.contains(&&*event.kind) {
        asyncapi::assert_described(&event.kind, &event.kind, message);
    }
}
