//! All that a command can change: every table, every key, every stream and its readers.

use std::collections::BTreeMap;

use async_nats::jetstream;
use async_nats::jetstream::consumer;
use futures_util::TryStreamExt as _;
use serde_json::json;

use super::STREAM;
use crate::support::World;

/// What there is, by name.
pub(super) type Traces = BTreeMap<String, String>;

/// Nothing has come, gone or changed.
pub(super) fn assert_same(before: &Traces, after: &Traces) {
    let names = before.keys().chain(after.keys());
    let changed = names.filter(|name| before.get(*name) != after.get(*name));
    let changed: Vec<_> = changed.map(|name| (name, before.get(name), after.get(name))).collect();
    assert!(changed.is_empty(), "{changed:#?}");
}

impl World {
    /// Without what replays leave on purpose: their stream, and their runs.
    pub(super) async fn traces_beside_replays(&self) -> Traces {
        let mut traces = self.traces().await;
        traces.retain(|name, _| !name.contains(STREAM) && name != "table outbox_replays");
        traces
    }

    pub(super) async fn traces(&self) -> Traces {
        let mut traces = Traces::new();
        self.trace_tables(&mut traces).await;
        self.trace_keys(&mut traces).await;
        self.trace_streams(&mut traces).await;
        traces
    }

    async fn trace_tables(&self, traces: &mut Traces) {
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT table_name::text FROM information_schema.tables \
             WHERE table_schema = 'public' AND table_type = 'BASE TABLE'",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        for table in tables {
            // When coupons are looked at again that may expire is a matter of the clock.
            let row = "(to_jsonb(t) - 'expired_up_to' - 'expiry_due_at')::text";
            let statement =
                format!("SELECT coalesce(md5(string_agg({row}, '|' ORDER BY {row})), '') FROM {table} AS t");
            let sum: String = sqlx::query_scalar(&statement).fetch_one(&self.pool).await.unwrap();
            traces.insert(format!("table {table}"), sum);
        }
    }

    async fn trace_keys(&self, traces: &mut Traces) {
        let mut redis = self.redis().await;
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await.unwrap();
        assert!(!keys.is_empty());
        for key in keys {
            let value: Vec<u8> = redis::cmd("DUMP").arg(&key).query_async(&mut redis).await.unwrap();
            traces.insert(format!("key {key}"), format!("{value:?}"));
        }
    }

    async fn trace_streams(&self, traces: &mut Traces) {
        let context = jetstream::new(self.nats().await);
        let names: Vec<String> = context.stream_names().try_collect().await.unwrap();
        for name in names {
            let stream = context.get_stream(&name).await.unwrap();
            let info = stream.cached_info();
            let mut state = info.state.clone();
            state.consumer_count = 0; // an audit reads through consumers that are gone after a while
            traces.insert(format!("stream {name}"), format!("{} {state:?}", json!(info.config)));
            let mut consumers = stream.consumers();
            while let Some(consumer) = consumers.try_next().await.unwrap() {
                if consumer.config.durable_name.is_some() {
                    let consumer::Info { config, delivered, ack_floor, num_pending, .. } = &consumer;
                    let given = (consumer.num_ack_pending, consumer.num_redelivered, num_pending);
                    let config = json!(config);
                    let trace = format!("{config} {delivered:?} {ack_floor:?} {given:?}");
                    traces.insert(format!("consumer {} of {name}", consumer.name), trace);
                }
            }
        }
    }
}
