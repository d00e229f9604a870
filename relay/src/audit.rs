//! Proves that a shard's outbox and its stream hold the same: by their ends, at once, or event by
//! event.

mod comparison;
mod messages;

use async_nats::Client;
use async_nats::jetstream::stream::{State, Stream};
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

/// A side that does not go as far as the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Which, and how far it goes: the same for as long as it stands still.
    pub stands: String,
    /// The same, and how far the outbox goes.
    pub difference: String,
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
    let missing = match &stream {
        Some(stream) => missing(stream, epochs.sequence_of(first)).await?,
        None => 0,
    };
    let stream = stream.map(|stream| signed(stream.cached_info().state.last_sequence));
    Ok(ShardAudit { shard, first, head, stream, missing, projections, parked, name, epochs })
}

/// Messages that a stream lacks from sequence `first` up to its end, at its beginning and in between.
pub(crate) async fn missing(stream: &Stream, first: i64) -> Result<i64, StreamError> {
    let state = &stream.cached_info().state;
    let behind = signed(state.last_sequence) + 1;
    let whole = state.messages == 0 || signed(state.first_sequence + state.messages) == behind;
    let state = if whole { state.clone() } else { detailed(stream).await? };
    Ok((behind - first).max(0) - held(&state, first - 1, behind - 1))
}

/// The state of a stream, as its leader has it, with all that was deleted.
async fn detailed(stream: &Stream) -> Result<State, StreamError> {
    let asked = stream.info_builder().with_deleted(true).fetch().await;
    let detailed = asked.map_err(|error| StreamError::new(&stream.cached_info().config.name, &error))?;
    Ok(detailed.info.state)
}

/// Messages that a stream holds behind sequence `after`, up to `until`, if its state tells what was deleted.
fn held(state: &State, after: i64, until: i64) -> i64 {
    if state.messages == 0 {
        return 0;
    }
    let places = (after + 1).max(signed(state.first_sequence))..=until.min(signed(state.last_sequence));
    let deleted = state.deleted.iter().flatten().filter(|sequence| places.contains(&signed(**sequence)));
    (places.end() - places.start() + 1).max(0) - deleted.count() as i64
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
    pub fn lag(&self) -> Option<Lag> {
        let Self { name, head, .. } = self;
        if self.stream.is_none() && *head > 0 {
            let stands = format!("stream {name} is not there");
            return Some(Lag { difference: format!("{stands}, the outbox ends at {head}"), stands });
        }
        (self.behind() > 0).then(|| Lag { stands: self.end_of_stream(), difference: self.ends() })
    }

    fn ends(&self) -> String {
        format!("{}, the outbox at {}", self.end_of_stream(), self.head)
    }

    fn end_of_stream(&self) -> String {
        format!("stream {} ends at {}", self.name, self.stream.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(first: u64, last: u64, deleted: &[u64]) -> State {
        serde_json::from_value(serde_json::json!({
            "messages": last + 1 - first - deleted.len() as u64, "bytes": 0, "first_seq": first, "last_seq": last,
            "first_ts": "2026-11-20T00:00:00Z", "last_ts": "2026-11-20T00:00:00Z", "consumer_count": 0,
            "deleted": deleted,
        }))
        .unwrap()
    }

    #[test]
    fn what_a_stream_holds_is_counted_between_two_sequences() {
        let holes = state(4, 10, &[5, 9]);
        for (after, until, holds) in
            [(0, 20, 5), (3, 10, 5), (4, 9, 3), (5, 8, 3), (4, 5, 0), (8, 9, 0), (10, 20, 0), (0, 3, 0)]
        {
            assert_eq!(held(&holes, after, until), holds, "{after}, {until}");
        }
        let purged = state(11, 10, &[]);
        assert_eq!(held(&purged, 0, 20), 0);
        let new: State = serde_json::from_value(serde_json::json!({
            "messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0, "consumer_count": 0,
            "first_ts": "2026-11-20T00:00:00Z", "last_ts": "2026-11-20T00:00:00Z",
        }))
        .unwrap();
        assert_eq!(held(&new, 0, 20), 0);
    }
}
