//! Epochs: where a shard's positions and the sequences of its stream are tied together anew.
//!
//! As long as nothing irreparable happens, the sequence of an event is its position. Two things
//! cannot be healed: the database was restored to an earlier time, so that the stream holds events
//! which the outbox does not know; or the stream was lost when the outbox no longer held all of it.
//! Then the relay stops, and an operator begins a new epoch: positions go on as they were, and the
//! sequences of the stream go on as they are. What the stream held stays in it.

use async_nats::Client;
use async_nats::jetstream::stream::Stream;
use serde::Serialize;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;
use ulid::Ulid;

use crate::cursor::{Cursor, Halt};
use crate::leadership;
use crate::outlet::{Outlet, Shard};
use crate::relay::{LOCK, RelayError};
use crate::stream;

/// For the relay to let go: one that is stopped holds its lock for moments only.
const LOCK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// From `first_position` on, until the next epoch, the event at a position is the message at sequence
/// `first_sequence + position - first_position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Epoch {
    pub epoch: i32,
    pub first_position: i64,
    pub first_sequence: i64,
}

impl Epoch {
    /// Sequence and position are the same.
    pub const FIRST: Self = Self { epoch: 0, first_position: 1, first_sequence: 1 };

    /// The id of an event's message, which is in the header `Nats-Msg-Id`: the event's own id, from the
    /// second epoch on followed by a dot and the number of the epoch.
    #[must_use]
    pub fn message_id(&self, event: Ulid) -> String {
        match self.epoch {
            0 => event.to_string(),
            epoch => format!("{event}.{epoch}"),
        }
    }

    pub(crate) fn sequence_of(&self, position: i64) -> i64 {
        self.first_sequence + position - self.first_position
    }

    pub(crate) fn position_of(&self, sequence: i64) -> i64 {
        self.first_position + sequence - self.first_sequence
    }
}

/// All epochs of a shard, the newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Epochs(Vec<Epoch>);

impl Epochs {
    /// Reads them.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn read(connection: &mut PgConnection, shard: Shard) -> Result<Self, sqlx::Error> {
        let rows: Vec<(i32, i64, i64)> = sqlx::query_as(
            "SELECT epoch, first_position, first_sequence FROM outbox_epochs WHERE shard = $1 ORDER BY epoch",
        )
        .bind(shard.0)
        .fetch_all(connection)
        .await?;
        let later = rows.into_iter().map(|(epoch, first_position, first_sequence)| Epoch {
            epoch,
            first_position,
            first_sequence,
        });
        Ok(Self(std::iter::once(Epoch::FIRST).chain(later).collect()))
    }

    /// The newest.
    #[must_use]
    pub fn current(&self) -> Epoch {
        self.0.last().copied().unwrap_or(Epoch::FIRST)
    }

    /// The epoch in which the event at `position` was published.
    #[must_use]
    pub fn of_position(&self, position: i64) -> Epoch {
        let newest_first = self.0.iter().rev();
        newest_first.copied().find(|epoch| epoch.first_position <= position).unwrap_or(Epoch::FIRST)
    }

    /// The sequence of the event at `position`.
    #[must_use]
    pub fn sequence_of(&self, position: i64) -> i64 {
        self.of_position(position).sequence_of(position)
    }

    /// The sequence at which the stream ends when everything up to position `head`, the highest, is
    /// published.
    #[must_use]
    pub fn end_of(&self, head: i64) -> i64 {
        self.current().sequence_of(head.max(self.current().first_position - 1))
    }

    /// Epoch and position of the message at `sequence`. Nothing when the epoch that began behind it has
    /// left it: the database no longer knows its event.
    #[must_use]
    pub fn place_of(&self, sequence: i64) -> Option<(Epoch, i64)> {
        let mut end = i64::MAX;
        for epoch in self.0.iter().rev() {
            if epoch.first_sequence <= sequence {
                let position = epoch.position_of(sequence);
                return (position < end).then_some((*epoch, position));
            }
            end = epoch.first_position;
        }
        None
    }
}

/// What beginning an epoch came to.
#[derive(Clone, Debug, Serialize)]
pub struct Begun {
    pub shard: Shard,
    #[serde(flatten)]
    pub epoch: Epoch,
    /// What had stopped the relay.
    pub reason: String,
    /// Messages at the end of the stream that the outbox does not know. They stay.
    pub left: i64,
    /// Events that nobody can be given any more: neither in the stream nor in the outbox.
    pub lost: i64,
}

impl std::fmt::Display for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Epoch { epoch, first_position, first_sequence } = self.epoch;
        writeln!(f, "what had stopped the relay: {}", self.reason)?;
        writeln!(
            f,
            "epoch {epoch} of shard {} begins with position {first_position} at sequence {first_sequence}",
            self.shard
        )?;
        writeln!(
            f,
            "{} messages before it are of events that the database does not know: they stay",
            self.left
        )?;
        write!(f, "{} events are in neither and were lost to whoever had not read them", self.lost)
    }
}

/// Why no epoch was begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    #[error("stream and outbox of shard {0} agree: there is nothing to begin")]
    NotNeeded(Shard),
    #[error("no epoch helps against this: {0}")]
    NoHelp(Halt),
    #[error("shard {0} has a relay at work, which is not stopped")]
    Led(Shard),
    #[error(transparent)]
    Relay(#[from] RelayError),
}

/// Begins a new epoch of a shard: its relay goes on behind the last event on which outbox and stream
/// agree, at the end of the stream as it is. Only a shard whose relay has stopped needs it.
///
/// # Errors
/// See [`BeginError`]; nothing is changed then.
pub async fn begin(
    database: &PgConnectOptions,
    nats: &Client,
    outlet: &Outlet,
    shard: Shard,
    replicas: usize,
) -> Result<Begun, BeginError> {
    let led = timeout(LOCK_TIMEOUT, leadership::take(database, LOCK, shard.0)).await;
    let mut connection =
        led.map_err(|_| BeginError::Led(shard))?.map_err(|error| BeginError::Relay(error.into()))?;
    let cursor = Cursor { outlet, shard, replicas, nats };
    let reason = match cursor.find(&mut connection).await {
        Ok(_) => return Err(BeginError::NotNeeded(shard)),
        Err(RelayError::Halted(halt)) if halt.needs_epoch() => halt,
        Err(RelayError::Halted(halt)) => return Err(BeginError::NoHelp(halt)),
        Err(error) => return Err(error.into()),
    };
    Ok(cursor.begin(&mut connection, reason).await?)
}

impl Cursor<'_> {
    async fn begin(&self, connection: &mut PgConnection, reason: Halt) -> Result<Begun, RelayError> {
        let epochs = Epochs::read(connection, self.shard).await?;
        let stream = stream::of_shard(self.nats, self.outlet, self.shard, self.replicas).await?;
        let last = stream.cached_info().state.last_sequence.cast_signed();
        let (oldest, head) = self.bounds(connection).await?;
        let agreed = self.last_agreed(connection, &stream, &epochs, oldest - 1, head).await?;
        // The database may have been restored to a time before earlier epochs: the stream knows them.
        let newest = self.message(&stream, last).await?.map_or(0, |message| message.epoch);
        let epoch = Epoch {
            epoch: newest.max(epochs.current().epoch) + 1,
            first_position: agreed + 1,
            first_sequence: last + 1,
        };
        sqlx::query(
            "INSERT INTO outbox_epochs (shard, epoch, first_position, first_sequence, reason) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(self.shard.0)
        .bind(epoch.epoch)
        .bind(epoch.first_position)
        .bind(epoch.first_sequence)
        .bind(reason.to_string())
        .execute(connection)
        .await?;
        let end = epochs.sequence_of(agreed);
        Ok(Begun {
            shard: self.shard,
            epoch,
            reason: reason.to_string(),
            left: (last - end).max(0),
            lost: (end - last).max(0),
        })
    }

    /// The last position, from `agreed` to `end`, at which the stream has the event of the outbox. Once
    /// they differ they differ for ever, so it is searched by halves. Where the stream has no message
    /// (any more), it is taken to have had the right one.
    async fn last_agreed(
        &self,
        connection: &mut PgConnection,
        stream: &Stream,
        epochs: &Epochs,
        mut agreed: i64,
        mut end: i64,
    ) -> Result<i64, RelayError> {
        let state = &stream.cached_info().state;
        let (first, last) = (state.first_sequence.cast_signed(), state.last_sequence.cast_signed());
        while agreed < end {
            let middle = end - (end - agreed) / 2;
            if epochs.sequence_of(middle) > last {
                end = middle - 1;
                continue;
            }
            let mut probe = middle;
            let same = loop {
                let sequence = epochs.sequence_of(probe);
                if probe == agreed || sequence < first {
                    break true;
                }
                if let Some(message) = self.message(stream, sequence).await? {
                    let ours = self.event_id(connection, probe).await?;
                    break ours.map(|id| epochs.of_position(probe).message_id(id)) == message.id;
                }
                probe -= 1;
            };
            if same {
                agreed = middle;
            } else {
                end = probe - 1;
            }
        }
        Ok(agreed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTORED: Epoch = Epoch { epoch: 1, first_position: 101, first_sequence: 151 };
    const MADE_AGAIN: Epoch = Epoch { epoch: 2, first_position: 501, first_sequence: 1 };

    #[test]
    fn positions_and_sequences_lead_to_each_other() {
        let epochs = Epochs(vec![Epoch::FIRST, RESTORED]);
        assert_eq!((epochs.sequence_of(100), epochs.sequence_of(101)), (100, 151));
        assert_eq!(epochs.place_of(100), Some((Epoch::FIRST, 100)));
        assert_eq!((epochs.place_of(101), epochs.place_of(150)), (None, None), "left");
        assert_eq!(epochs.place_of(151), Some((RESTORED, 101)));
    }

    #[test]
    fn a_stream_that_was_made_again_starts_at_one() {
        let epochs = Epochs(vec![Epoch::FIRST, RESTORED, MADE_AGAIN]);
        assert_eq!((epochs.sequence_of(501), epochs.sequence_of(700)), (1, 200));
        assert_eq!(epochs.place_of(200), Some((MADE_AGAIN, 700)));
    }

    #[test]
    fn the_id_of_a_message_tells_the_epoch() {
        let id = Ulid::generate();
        assert_eq!(Epoch::FIRST.message_id(id), id.to_string());
        assert_eq!(RESTORED.message_id(id), format!("{id}.1"));
    }
}
