//! Events again, to a subscriber who asks for them. They go to subjects of their own,
//! `replay.<run>.<type>.<key>.<shard>`, so that nobody else is disturbed. A replayed event keeps
//! its id and its position; only its message id is another.

use async_nats::Client;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::{self};
use sqlx::postgres::PgRow;
use sqlx::{FromRow as _, PgConnection, Row as _};
use time::OffsetDateTime;

use crate::event::{EVENT_ID_HEADER, StoredEvent};
use crate::outlet::{Outlet, Shard};
use crate::stream::{self, StreamError};

/// Read, published and confirmed at a time.
const BATCH_EVENTS: i64 = 500;

/// Which events; an empty list or a missing bound excludes nothing.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub kinds: Vec<String>,
    pub keys: Vec<String>,
    /// First and last position, both included.
    pub from: Option<i64>,
    pub to: Option<i64>,
    /// Appended at or after, and before.
    pub since: Option<OffsetDateTime>,
    pub until: Option<OffsetDateTime>,
}

/// What a selection comes to in one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub events: i64,
    pub first: Option<i64>,
    pub last: Option<i64>,
    pub bytes: i64,
}

/// Why a replay ended early. What was published stays; the same run can be started again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("read the outbox")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// `$1` shard, `$2` behind which position, `$3` to `$8` the selection.
macro_rules! selected {
    ($columns:literal, $end:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM outbox WHERE shard = $1 AND position > $2 \
             AND (cardinality($3::text[]) = 0 OR type = ANY ($3)) \
             AND (cardinality($4::text[]) = 0 OR key = ANY ($4)) \
             AND ($5::bigint IS NULL OR position >= $5) AND ($6::bigint IS NULL OR position <= $6) \
             AND ($7::timestamptz IS NULL OR time >= $7) AND ($8::timestamptz IS NULL OR time < $8) ",
            $end
        )
    };
}

impl Selection {
    async fn rows(
        &self,
        connection: &mut PgConnection,
        statement: &'static str,
        shard: Shard,
        after: i64,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        sqlx::query(statement)
            .bind(shard.0)
            .bind(after)
            .bind(&self.kinds)
            .bind(&self.keys)
            .bind(self.from)
            .bind(self.to)
            .bind(self.since)
            .bind(self.until)
            .fetch_all(connection)
            .await
    }

    /// Counts what a replay would publish, and touches nothing.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn plan(&self, connection: &mut PgConnection, shard: Shard) -> Result<Plan, sqlx::Error> {
        const COUNT: &str = selected!(
            "count(*), min(position), max(position), coalesce(sum(octet_length(data::text)), 0)::bigint",
            ""
        );
        let rows = self.rows(connection, COUNT, shard, 0).await?;
        let Some(row) = rows.first() else { return Ok(Plan::default()) };
        Ok(Plan {
            events: row.try_get(0)?,
            first: row.try_get(1)?,
            last: row.try_get(2)?,
            bytes: row.try_get(3)?,
        })
    }
}

/// Publishes the selected events of a shard, in order, and says after each batch how many those
/// were. Answers when the stream of replays has confirmed all.
///
/// # Errors
/// See [`ReplayError`].
pub async fn replay(
    connection: &mut PgConnection,
    nats: &Client,
    outlet: &Outlet,
    shard: Shard,
    run: &str,
    selection: &Selection,
    mut progress: impl FnMut(u64),
) -> Result<(), ReplayError> {
    const NEXT: &str = selected!(
        "shard, position, event_id, type, key, subject, data::text AS data, traceparent, time",
        "ORDER BY position LIMIT 500"
    );
    stream::of_replays(nats, outlet).await?;
    let jetstream = jetstream::new(nats.clone());
    let error = |error: jetstream::context::PublishError| StreamError::new(&outlet.replay_stream(), &error);
    let mut after = 0;
    loop {
        let rows = selection.rows(connection, NEXT, shard, after).await?;
        let mut confirmations: Vec<PublishAckFuture> = Vec::with_capacity(rows.len());
        for row in &rows {
            let event = StoredEvent::from_row(row)?;
            let mut headers = event.headers(&format!("{}.{run}", event.id));
            headers.insert(EVENT_ID_HEADER, event.id.to_string());
            let subject = format!("replay.{run}.{}.{}.{shard}", event.kind, event.key);
            let sent = jetstream.publish_with_headers(subject, headers, event.body(outlet)).await;
            confirmations.push(sent.map_err(error)?);
            after = event.position;
        }
        for confirmation in confirmations {
            confirmation.await.map_err(error)?;
        }
        progress(rows.len() as u64);
        if (rows.len() as i64) < BATCH_EVENTS {
            return Ok(());
        }
    }
}
