//! Epochs: how positions of the outbox map to sequences of the stream.
//!
//! Normally the sequence of an event is its position. Two failures cannot be healed: the database was restored
//! to an earlier time, so the stream holds events that the outbox does not know; or the stream was lost when
//! the outbox no longer held all of it. Then the relay stops and an operator begins a new epoch: positions
//! continue from the outbox, sequences continue from the stream, and the stream keeps what it held.

use serde::Serialize;
use sqlx::PgConnection;
use ulid::Ulid;

use crate::in_time::InTime as _;
use crate::outlet::Shard;

/// From `first_position` on, until the next epoch, the event at a position is the message at sequence
/// `first_sequence + position - first_position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Epoch {
    pub epoch: i32,
    pub first_position: i64,
    pub first_sequence: i64,
}

impl Epoch {
    /// The mapping before any epoch was begun: sequence and position are equal.
    pub const FIRST: Self = Self { epoch: 0, first_position: 1, first_sequence: 1 };

    /// The message id (`Nats-Msg-Id`) of an event: the event's id, from epoch 1 on followed by a dot and the
    /// epoch.
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
    /// Reads the epochs of a shard.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn read(connection: &mut PgConnection, shard: Shard) -> Result<Self, sqlx::Error> {
        let later: Vec<Epoch> = sqlx::query_as(
            "SELECT epoch, first_position, first_sequence FROM outbox_epochs WHERE shard = $1 ORDER BY epoch",
        )
        .bind(shard)
        .fetch_all(connection)
        .in_time()
        .await?;
        Ok(Self([vec![Epoch::FIRST], later].concat()))
    }

    /// The newest epoch.
    #[must_use]
    pub fn current(&self) -> Epoch {
        self.0.last().copied().unwrap_or(Epoch::FIRST)
    }

    /// The epoch that the event at `position` belongs to.
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

    /// The sequence at which the stream ends when everything up to position `head`, the highest, is published.
    #[must_use]
    pub fn end_of(&self, head: i64) -> i64 {
        self.current().sequence_of(head.max(self.current().first_position - 1))
    }

    /// Epoch and position of the message at `sequence`; `None` when a later epoch has abandoned that message,
    /// because the database no longer knows its event.
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
