//! Selects events, and counts what a selection holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::{FromRow as _, PgConnection, Row as _};
use time::OffsetDateTime;

use crate::event::StoredEvent;
use crate::in_time::{InTime as _, LONG_TIMEOUT};
use crate::outbox;
use crate::outlet::Shard;

/// Events read at a time.
pub(super) const REPLAY_BATCH_EVENTS: i64 = 500;

/// Selects the events that match all of these conditions. An empty list or a missing bound excludes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// The event has one of these types.
    pub kinds: Vec<String>,
    /// The event has one of these keys.
    pub keys: Vec<String>,
    /// Each of these fields of the data, a JSON object, holds this string.
    pub fields: BTreeMap<String, String>,
    /// The first and the last position, both inclusive.
    pub from: Option<i64>,
    pub to: Option<i64>,
    /// The earliest time of the append, inclusive, and the latest, exclusive.
    #[serde(with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
}

/// What a selection holds in one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardPlan {
    pub shard: Shard,
    pub events: i64,
    /// Positions of the first and the last of these events.
    pub first: Option<i64>,
    pub last: Option<i64>,
    /// Bytes of the events' data alone. A message has about 200 bytes of envelope and 300 bytes of headers
    /// more.
    pub data_bytes: i64,
    /// The first position of the outbox, when the selection reaches below it: older events are gone.
    pub available_from: Option<i64>,
}

/// A range of positions of a shard, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) available_from: Option<i64>,
}

/// `$1` shard, `$2` exclusive lower and `$3` inclusive upper bound of the position, `$4` to `$8` the selection,
/// `$9` the limit.
macro_rules! selected {
    ($columns:literal, $order:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM outbox WHERE shard = $1 AND position > $2 AND position <= $3 \
             AND (cardinality($4::text[]) = 0 OR type = ANY ($4)) \
             AND (cardinality($5::text[]) = 0 OR key = ANY ($5)) \
             AND ($6::timestamptz IS NULL OR time >= $6) AND ($7::timestamptz IS NULL OR time < $7) \
             AND ($8::text IS NULL OR data::jsonb @> $8::jsonb) ",
            $order,
            " LIMIT $9"
        )
    };
}

impl Selection {
    /// Counts what the selection holds in a shard now. Changes nothing.
    ///
    /// # Errors
    /// When a query fails.
    pub async fn plan(&self, connection: &mut PgConnection, shard: Shard) -> Result<ShardPlan, sqlx::Error> {
        let range = self.range(connection, shard).await?;
        self.count(connection, shard, range).await
    }

    /// The range of positions that the selection covers in a shard now.
    pub(super) async fn range(
        &self,
        connection: &mut PgConnection,
        shard: Shard,
    ) -> Result<Range, sqlx::Error> {
        let head = outbox::head(connection, shard).await?;
        let (oldest, begun) = outbox::oldest(connection, shard).await?.unzip();
        let (from, oldest) = (self.from.unwrap_or(1), oldest.unwrap_or(1));
        let only_later = self.since.is_some_and(|since| begun.is_some_and(|begun| begun < since));
        Ok(Range {
            first: from.max(oldest),
            last: self.to.unwrap_or(i64::MAX).min(head),
            available_from: (from < oldest && !only_later).then_some(oldest),
        })
    }

    pub(super) async fn count(
        &self,
        connection: &mut PgConnection,
        shard: Shard,
        range: Range,
    ) -> Result<ShardPlan, sqlx::Error> {
        const COUNT: &str = selected!(
            "count(*), min(position), max(position), coalesce(sum(octet_length(data::text)), 0)::bigint",
            ""
        );
        let Range { first, last, available_from } = range;
        let rows = self.rows(connection, COUNT, shard, (first - 1, last)).within(LONG_TIMEOUT).await?;
        let Some(row) = rows.first() else { return Ok(ShardPlan::default()) };
        Ok(ShardPlan {
            shard,
            events: row.try_get(0)?,
            first: row.try_get(1)?,
            last: row.try_get(2)?,
            data_bytes: row.try_get(3)?,
            available_from,
        })
    }

    /// The first selected events of a shard after position `after`, up to `last`.
    pub(super) async fn next(
        &self,
        connection: &mut PgConnection,
        shard: Shard,
        after: i64,
        last: i64,
    ) -> Result<Vec<StoredEvent>, sqlx::Error> {
        const NEXT: &str = selected!(
            "shard, position, event_id, type, key, subject, data::text AS data, traceparent, request_id, time",
            "ORDER BY position"
        );
        let rows = self.rows(connection, NEXT, shard, (after, last)).in_time().await?;
        rows.iter().map(StoredEvent::from_row).collect()
    }

    async fn rows(
        &self,
        connection: &mut PgConnection,
        statement: &'static str,
        shard: Shard,
        (after, last): (i64, i64),
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let fields =
            serde_json::to_string(&self.fields).map_err(|error| sqlx::Error::Encode(error.into()))?;
        sqlx::query(statement)
            .bind(shard)
            .bind(after)
            .bind(last)
            .bind(&self.kinds)
            .bind(&self.keys)
            .bind(self.since)
            .bind(self.until)
            .bind((!self.fields.is_empty()).then_some(fields))
            .bind(REPLAY_BATCH_EVENTS)
            .fetch_all(connection)
            .await
    }
}
