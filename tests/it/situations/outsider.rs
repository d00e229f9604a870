//! A service beside ours.

use super::{SHARD, STREAM};
use crate::support::{SOON, World, wait_until};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use futures_util::TryStreamExt as _;
use outbox_relay::event::{EPOCH_HEADER, POSITION_HEADER};
use serde_json::Value;
use std::collections::BTreeMap;
use tokio::time::timeout;
use ulid::Ulid;

/// A durable consumer of another service, which applies each event once: by epoch and position.
#[derive(Default)]
pub(super) struct Outsider {
    name: &'static str,
    pub(super) applied: BTreeMap<(i32, i64), Ulid>,
}

impl Outsider {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// Takes what is there, up to so many messages. A cluster that elects is asked again.
    pub(super) async fn take(&mut self, world: &World, count: usize) {
        wait_until("the stream is read", 2 * SOON, async || match self.try_take(world, count).await {
            Ok(()) => true,
            Err(error) => {
                eprintln!("{} asks again: {error}", self.name);
                false
            }
        })
        .await;
    }

    async fn try_take(&mut self, world: &World, count: usize) -> Result<(), async_nats::Error> {
        let stream = jetstream::new(world.nats().await).get_stream(STREAM).await?;
        let durable_name = Some(self.name.to_owned());
        let config = pull::Config { durable_name, ack_policy: AckPolicy::Explicit, ..Default::default() };
        let consumer: PullConsumer = stream.get_or_create_consumer(self.name, config).await?;
        let batch = consumer.fetch().max_messages(count).messages().await?;
        let messages: Vec<_> = timeout(SOON, batch.try_collect()).await??;
        for message in messages {
            let headers = message.headers.as_ref().unwrap();
            let number = |name: &str| headers.get(name).map_or(0, |text| text.as_str().parse().unwrap());
            let place = (i32::try_from(number(EPOCH_HEADER)).unwrap(), number(POSITION_HEADER));
            let body: Value = serde_json::from_slice(&message.payload).unwrap();
            if self.applied.last_key_value().is_none_or(|(last, _)| place > *last) {
                self.applied.insert(place, body["id"].as_str().unwrap().parse().unwrap());
            }
            message.double_ack().await?;
        }
        Ok(())
    }

    /// In the end it has this event, by epoch and position, and none behind it.
    pub(super) async fn assert_reads(&mut self, world: &World, last: (i32, i64)) {
        wait_until("the other service has the last event", SOON, async || {
            self.take(world, 1_000).await;
            self.applied.last_key_value().is_some_and(|(place, _)| *place == last)
        })
        .await;
    }

    /// In the end it has every event of the outbox, each once, and nothing else.
    pub(super) async fn assert_has_all(&mut self, world: &World) {
        let head = world.head(SHARD).await;
        wait_until("the other service has the last event", SOON, async || {
            self.take(world, 1_000).await;
            self.applied.last_key_value().is_some_and(|((_, position), _)| *position == head)
        })
        .await;
        let ids: Vec<Ulid> = self.applied.values().copied().collect();
        let outbox: Vec<Ulid> = world.outbox(SHARD).await.iter().map(|event| event.id).collect();
        assert_eq!(ids, outbox, "{} has something else than the outbox", self.name);
    }
}
