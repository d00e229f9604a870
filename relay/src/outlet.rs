//! How a service names its streams, subjects and types.

use serde::{Deserialize, Serialize};

use crate::deployment::Deployment;

/// One of a service's independent sequences of events, numbered from 0.
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

/// The names of a service's streams, subjects and event types.
#[derive(Clone, Copy, Debug)]
pub struct Outlet {
    /// Streams are `<stream>-<shard>`, e.g. `ORDERS`.
    pub stream: &'static str,
    /// Subjects are `<subjects>.<type>.<key>.<shard>`, e.g. `orders`.
    pub subjects: &'static str,
    /// Types of events, as CloudEvents, are `<types>.<type>.v1`, e.g. `order`.
    pub types: &'static str,
    /// The `source` of CloudEvents, e.g. `/shop`.
    pub source: &'static str,
    /// Which deployment of the service this is. Without it locks and consumers have plain names, and streams name no
    /// owner: then the service must be the only one in its database and in its NATS account.
    pub deployment: Option<Deployment>,
}

impl Outlet {
    /// The name of a shard's stream.
    #[must_use]
    pub fn stream_of(&self, shard: Shard) -> String {
        format!("{}-{shard}", self.stream)
    }

    /// The subject filter that takes all events of a shard.
    #[must_use]
    pub fn subjects_of(&self, shard: Shard) -> String {
        format!("{}.*.*.{shard}", self.subjects)
    }

    /// The subject of one event.
    #[must_use]
    pub fn subject(&self, kind: &str, key: &str, shard: Shard) -> String {
        format!("{}.{kind}.{key}.{shard}", self.subjects)
    }

    /// The name of the stream of replayed events.
    #[must_use]
    pub fn replay_stream(&self) -> String {
        format!("{}-REPLAY", self.stream)
    }

    /// The name of the stream of dead letters: events that a projection could not apply.
    #[must_use]
    pub fn dead_stream(&self) -> String {
        format!("{}-DEAD", self.stream)
    }

    /// The subject of a dead letter.
    #[must_use]
    pub fn dead_subject(&self, projection: &str, shard: Shard, position: i64) -> String {
        format!("{}.{position}", self.dead_subjects(projection, shard))
    }

    /// The class of an advisory lock, or the name of a schema of its own: `name`, with the name of the deployment unless
    /// that has plain names.
    #[must_use]
    pub fn own(&self, name: &str) -> String {
        self.qualify(name, '@')
    }

    /// The name of a durable consumer, made in the same way.
    #[must_use]
    pub fn consumer(&self, name: &str) -> String {
        self.qualify(name, '-')
    }

    fn qualify(&self, name: &str, separator: char) -> String {
        self.deployment.map_or_else(|| name.to_owned(), |deployment| deployment.qualify(name, separator))
    }

    /// The first tokens of the subject of a dead letter.
    pub(crate) fn dead_subjects(&self, projection: &str, shard: Shard) -> String {
        format!("dead.{}.{projection}.{shard}", self.subjects)
    }
}
