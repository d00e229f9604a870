//! The ends of one shard, and what they prove.

use crate::in_time::{InTime as _, SCAN_TIMEOUT};
use async_nats::Client;
use sqlx::PgConnection;

use super::difference::{Lag, ShardDifference, StreamEnd};
use super::error::AuditError;
use super::gaps::{missing, signed};
use crate::epoch::{Epoch, Epochs};
use crate::outbox;
use crate::outlet::{Outlet, Shard};
use crate::stream;

/// The ends of one shard: all that can be known without reading its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardAudit {
    pub shard: Shard,
    /// The lowest position of the outbox, which grows with retention; 1 when the outbox is empty.
    pub first: i64,
    /// The highest position of the outbox.
    pub head: i64,
    /// The stream's last sequence; `None` when there is no stream.
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

/// Reads the ends of a shard, at a cost that does not grow with it. Reads the projections first, then the
/// stream, then the outbox: events in flight can only make each of them lag behind the next, never lead it.
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
    .bind(shard)
    .fetch_all(&mut *connection)
    .within(SCAN_TIMEOUT)
    .await?;
    let parked = sqlx::query_as(
        "SELECT projection, count(*), min(position) FROM parked_events WHERE shard = $1 GROUP BY 1 ORDER BY 1",
    )
    .bind(shard)
    .fetch_all(&mut *connection)
    .within(SCAN_TIMEOUT)
    .await?;
    let name = outlet.stream_of(shard);
    let stream = stream::ours(nats, outlet, &name).await?;
    let epochs = Epochs::read(connection, shard).await?;
    let (first, head) = outbox::bounds(connection, shard).await?;
    let missing = match &stream {
        Some(stream) => missing(stream, epochs.sequence_of(first)).await?,
        None => 0,
    };
    let stream = stream.map(|stream| signed(stream.cached_info().state.last_sequence));
    Ok(ShardAudit { shard, first, head, stream, missing, projections, parked, name, epochs })
}

impl ShardAudit {
    /// The last position that the stream holds or should hold: the end of a comparison.
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

    /// The number of events of the outbox after the stream's end.
    #[must_use]
    pub fn behind(&self) -> i64 {
        (self.epochs.end_of(self.head) - self.stream.unwrap_or_default()).max(0)
    }

    /// The number of messages of the stream after the outbox's end.
    #[must_use]
    pub fn ahead(&self) -> i64 {
        (self.stream.unwrap_or_default() - self.epochs.end_of(self.head)).max(0)
    }

    /// Whether the stream must hold exactly what the outbox holds: the outbox still has its beginning, and no
    /// epoch has abandoned messages.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.first == 1 && self.epochs.current() == Epoch::FIRST
    }

    /// A difference that events in flight cannot explain: the stream continues after the end of the outbox, or
    /// has lost messages, or a projection has parked events.
    #[must_use]
    pub fn contradiction(&self) -> Option<ShardDifference> {
        if self.ahead() > 0 {
            return Some(self.ends());
        }
        let Self { shard, missing, name, .. } = self;
        if *missing != 0 {
            return Some(ShardDifference::Missing {
                shard: *shard,
                stream: name.clone(),
                messages: *missing,
            });
        }
        let (projection, events, first) = self.parked.first()?.clone();
        Some(ShardDifference::Parked { shard: *shard, projection, events, first })
    }

    /// A difference that is normal while events are in flight and none at rest: the stream ends before the
    /// outbox does.
    #[must_use]
    pub fn lag(&self) -> Option<Lag> {
        let lost = self.stream.is_none() && self.head > 0;
        let at = StreamEnd { stream: self.name.clone(), sequence: self.stream };
        (lost || self.behind() > 0).then(|| Lag { at, difference: self.ends() })
    }

    fn ends(&self) -> ShardDifference {
        let Self { shard, head, stream, name, epochs, .. } = self;
        let expected = epochs.end_of(*head);
        ShardDifference::Ends { shard: *shard, stream: name.clone(), head: *head, expected, found: *stream }
    }
}
