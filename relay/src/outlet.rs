//! How a service names its streams, subjects and types.

use serde::{Deserialize, Serialize};

/// One of a service's independent sequences of events, from 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type,
)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct Shard(pub i16);

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The names under which a service's events leave it.
#[derive(Clone, Copy, Debug)]
pub struct Outlet {
    /// Streams are `<stream>-<shard>`, e.g. `ORDERS`.
    pub stream: &'static str,
    /// Subjects are `<subjects>.<type>.<key>.<shard>`, e.g. `orders`.
    pub subjects: &'static str,
    /// Types of events, as CloudEvents, are `<types>.<type>.v1`, e.g. `order`.
    pub types: &'static str,
    /// Who says it: `source` of CloudEvents, e.g. `/shop`.
    pub source: &'static str,
}

impl Outlet {
    /// The stream of a shard.
    #[must_use]
    pub fn stream_of(&self, shard: Shard) -> String {
        format!("{}-{shard}", self.stream)
    }

    /// All subjects of a shard.
    #[must_use]
    pub fn subjects_of(&self, shard: Shard) -> String {
        format!("{}.*.*.{shard}", self.subjects)
    }

    /// The subject of one event.
    #[must_use]
    pub fn subject(&self, kind: &str, key: &str, shard: Shard) -> String {
        format!("{}.{kind}.{key}.{shard}", self.subjects)
    }

    /// The stream that takes what is replayed.
    #[must_use]
    pub fn replay_stream(&self) -> String {
        format!("{}-REPLAY", self.stream)
    }

    /// The stream of events that a projection could not apply.
    #[must_use]
    pub fn dead_stream(&self) -> String {
        format!("{}-DEAD", self.stream)
    }

    /// The subject of an event that a projection could not apply.
    #[must_use]
    pub fn dead_subject(&self, projection: &str, shard: Shard, position: i64) -> String {
        format!("{}.{position}", self.dead_subjects(projection, shard))
    }

    /// What such subjects begin with.
    pub(crate) fn dead_subjects(&self, projection: &str, shard: Shard) -> String {
        format!("dead.{}.{projection}.{shard}", self.subjects)
    }
}
