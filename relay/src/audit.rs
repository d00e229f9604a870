//! Proves that a shard's outbox and its stream hold the same: by their ends, at once, or event by
//! event.

mod comparison;
mod messages;

use async_nats::Client;
use async_nats::jetstream::stream::State;
use sqlx::PgConnection;

pub use self::comparison::{Comparison, compare};
use crate::epoch::{Epoch, Epochs};
use crate::outlet::{Outlet, Shard};
use crate::stream::{self, StreamError};

/// The ends of one shard: what can be told without reading its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardAudit {
    pub shard: Shard,
    /// The lowest position of the outbox; old ones go. 1 when it is empty.
    pub first: i64,
    /// The highest position of the outbox.
    pub head: i64,
    /// The stream's last sequence; nothing when there is no stream.
    pub stream: Option<i64>,
    /// Messages that the stream lacks, from the outbox's first event up to the stream's end.
    pub missing: i64,
    /// Each projection with the position up to which it has applied the shard.
    pub projections: Vec<(String, i64)>,
    /// Each projection that has parked events, with their number and the first position.
    pub parked: Vec<(String, i64, i64)>,
    name: String,
    epochs: Epochs,
}

/// Why it could not be told.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("read the outbox")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Reads the ends of a shard, at a cost that does not grow with it. Projections first, then the
/// stream, then the outbox: what is on its way can put each behind the next, never ahead of it.
///
/// # Errors
/// See [`AuditError`].
pub async fn audit_shard(
    connection: &mut PgConnection,
    nats: &Client,
    outlet: &Outlet,
    shard: Shard,
) -> Result<ShardAudit, AuditError> {
    let projections = sqlx::query_as(
        "SELECT projection, max(position) FROM projection_positions WHERE shard = $1 GROUP BY 1 ORDER BY 1",
    )
    .bind(shard.0)
    .fetch_all(&mut *connection)
    .await?;
    let parked = sqlx::query_as(
        "SELECT projection, count(*), min(position) FROM parked_events WHERE shard = $1 GROUP BY 1 ORDER BY 1",
    )
    .bind(shard.0)
    .fetch_all(&mut *connection)
    .await?;
    let name = outlet.stream_of(shard);
    let stream = stream::existing(nats, &name).await?;
    let epochs = Epochs::read(connection, shard).await?;
    let (first, head) = sqlx::query_as(
        "SELECT coalesce((SELECT position FROM outbox WHERE shard = $1 ORDER BY position LIMIT 1), 1), outbox_head($1)",
    )
    .bind(shard.0)
    .fetch_one(connection)
    .await?;
    let state = stream.map(|stream| stream.cached_info().state.clone());
    let missing = state.as_ref().map_or(0, |state| missing(state, epochs.sequence_of(first)));
    let stream = state.map(|state| signed(state.last_sequence));
    Ok(ShardAudit { shard, first, head, stream, missing, projections, parked, name, epochs })
}

/// Messages that a stream lacks up to its end: those of an outbox whose first event belongs at sequence
/// `first` that lie before it, and the holes in it.
fn missing(state: &State, first: i64) -> i64 {
    let behind = signed(state.last_sequence) + 1;
    let begin = if state.messages == 0 { behind } else { signed(state.first_sequence) };
    (begin - first).max(0) + (behind - begin - signed(state.messages))
}

fn signed(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

impl ShardAudit {
    /// The last position that the stream holds or should hold: where a comparison has to end.
    #[must_use]
    pub fn end(&self) -> i64 {
        self.head + self.ahead()
    }

    /// The last position that the stream and all of these projections have reached.
    #[must_use]
    pub fn settled(&self, projections: &[&str]) -> i64 {
        let reached = projections.iter().map(|name| self.applied(name)).min().unwrap_or(self.head);
        (self.head - self.behind()).min(reached)
    }

    /// The position up to which a projection has applied the shard.
    #[must_use]
    pub fn applied(&self, projection: &str) -> i64 {
        let known = self.projections.iter().find(|(name, _)| name == projection);
        known.map_or(0, |(_, position)| *position)
    }

    /// Events of the outbox behind the stream's end.
    #[must_use]
    pub fn behind(&self) -> i64 {
        (self.epochs.end_of(self.head) - self.stream.unwrap_or_default()).max(0)
    }

    /// Messages of the stream behind the outbox's end.
    #[must_use]
    pub fn ahead(&self) -> i64 {
        (self.stream.unwrap_or_default() - self.epochs.end_of(self.head)).max(0)
    }

    /// Whether the stream is to hold what the outbox holds and nothing else: neither lacks its beginning,
    /// and no epoch has left messages behind.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.first == 1 && self.epochs.current() == Epoch::FIRST
    }

    /// What differs, and what is on its way cannot explain: the stream goes on where the outbox ends, or
    /// has lost messages; or a projection has parked events.
    #[must_use]
    pub fn contradiction(&self) -> Option<String> {
        if self.ahead() > 0 {
            return Some(self.ends());
        }
        let Self { missing, name, shard, .. } = self;
        if *missing != 0 {
            return Some(format!("{missing} messages are missing from stream {name}"));
        }
        let (projection, count, first) = self.parked.first()?;
        Some(format!("{count} events of shard {shard} are parked for {projection}, the first at {first}"))
    }

    /// What differs while events are on their way, and may not differ at rest: the stream does not go
    /// as far as the outbox.
    #[must_use]
    pub fn lag(&self) -> Option<String> {
        let Self { name, head, .. } = self;
        if self.stream.is_none() && *head > 0 {
            return Some(format!("stream {name} is not there, the outbox ends at {head}"));
        }
        (self.behind() > 0).then(|| self.ends())
    }

    fn ends(&self) -> String {
        let Self { name, head, stream, .. } = self;
        format!("stream {name} ends at {}, the outbox at {head}", stream.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(first: u64, last: u64, messages: u64) -> State {
        serde_json::from_value(serde_json::json!({
            "messages": messages, "bytes": 0, "first_seq": first, "last_seq": last, "consumer_count": 0,
            "first_ts": "2026-11-20T00:00:00Z", "last_ts": "2026-11-20T00:00:00Z",
        }))
        .unwrap()
    }

    #[test]
    fn what_a_stream_lacks_is_counted_from_where_the_outbox_begins() {
        for (state, outbox_begins, lacks) in [
            (state(0, 0, 0), 1, 0),       // new
            (state(1, 10, 10), 1, 0),     // whole
            (state(1, 10, 8), 1, 2),      // with holes
            (state(4, 10, 7), 1, 3),      // without its beginning
            (state(11, 10, 0), 1, 10),    // purged
            (state(1, 10, 10), 4, 0),     // goes back further than the outbox
            (state(4, 10, 7), 4, 0),      // as far
            (state(6, 10, 4), 4, 3),      // not as far, and with a hole
            (state(101, 100, 0), 91, 10), // purged, and the outbox is not as old
        ] {
            assert_eq!(missing(&state, outbox_begins), lacks, "{state:?}, {outbox_begins}");
        }
    }
}
