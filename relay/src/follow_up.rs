//! Events that follow from applied events: a projection returns them, and the feed appends or drops them.

use sqlx::PgConnection;
use ulid::Ulid;

use crate::append::append;
use crate::event::{Event, NewEvent};
use crate::outlet::Shard;
use crate::projection::{ApplyError, FOLLOW_UPS_MAX};

/// What a feed does with the events that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FollowUps {
    /// The events are applied for the first time: append what follows.
    Append,
    /// A rebuild: what follows was appended when the events were first applied.
    Drop {
        /// How many were dropped.
        dropped: usize,
    },
}

impl FollowUps {
    /// A rebuild that has dropped nothing yet.
    pub(crate) const REBUILD: Self = Self::Drop { dropped: 0 };

    /// Appends or drops the events that follow from what is applied in this transaction.
    pub(crate) async fn finish(
        &mut self,
        transaction: &mut PgConnection,
        shard: Shard,
        events: &[NewEvent],
    ) -> Result<(), ApplyError> {
        match self {
            Self::Append => append_last(transaction, shard, events).await,
            Self::Drop { dropped } => {
                *dropped += events.len();
                Ok(())
            }
        }
    }

    /// Whether it has dropped any.
    pub(crate) fn dropped_any(self) -> bool {
        matches!(self, Self::Drop { dropped: 1.. })
    }
}

/// Appends the events that follow. This takes the shard's lock, so it must be the last statement before the
/// commit.
pub(crate) async fn append_last(
    transaction: &mut PgConnection,
    shard: Shard,
    events: &[NewEvent],
) -> Result<(), ApplyError> {
    if events.is_empty() {
        return Ok(());
    }
    if events.len() > FOLLOW_UPS_MAX {
        return Err(ApplyError::TooMany { count: events.len(), max: FOLLOW_UPS_MAX });
    }
    append(transaction, shard, events).await?;
    Ok(())
}

impl Event {
    /// The id of an event that follows from this one, with the timestamp of this event's id. The same event and
    /// `name` always give the same id; give each event that follows from one cause its own `name`.
    #[must_use]
    pub fn follow_up_id(&self, name: &str) -> Ulid {
        let hash = fnv1a(self.id.to_bytes().iter().chain(name.as_bytes()));
        Ulid::from_parts(self.id.timestamp_ms(), hash ^ (hash >> Ulid::RAND_BITS))
    }
}

/// FNV-1a of 128 bits: short, and stable across releases, which the hashers of `std` do not promise.
fn fnv1a<'a>(bytes: impl Iterator<Item = &'a u8>) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use bytes::Bytes;
    use time::OffsetDateTime;

    use super::*;

    fn event(id: Ulid) -> Event {
        let (time, data, body) = (OffsetDateTime::UNIX_EPOCH, Bytes::new(), Bytes::new());
        Event { position: 1, id, kind: "thing.issued.v1".to_owned(), time, data, body }
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // http://www.isthe.com/chongo/src/fnv/test_fnv.c
        assert_eq!(fnv1a([].iter()), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(fnv1a(b"a".iter()), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }

    #[test]
    fn ids_that_follow_are_the_same_each_time_and_no_two_are_alike() {
        let causes: Vec<Event> = (0..1_000).map(|random| event(Ulid::from_parts(7, random))).collect();
        let mut ids = HashSet::new();
        for cause in &causes {
            for name in ["accrued", "accrued-2", "reversed", ""] {
                let id = cause.follow_up_id(name);
                assert_eq!((id, id.timestamp_ms()), (cause.follow_up_id(name), 7));
                assert!(ids.insert(id), "{id} twice");
            }
        }
        assert!(causes.iter().all(|cause| !ids.contains(&cause.id)));
        // It must never change: readers know these ids.
        let known = event(Ulid::from_parts(1, 2)).follow_up_id("accrued");
        assert_eq!(known.to_string(), "0000000001D5JSR7ZBW3WVE8WF");
    }
}
