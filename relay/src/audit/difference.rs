//! Differences that an audit finds: data, with a sentence only for display.

use std::fmt;

use ulid::Ulid;

use crate::outlet::Shard;

/// Where a stream ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamEnd {
    pub stream: String,
    /// The last sequence; `None` when there is no stream.
    pub sequence: Option<i64>,
}

/// A stream that ends before the outbox does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lag {
    /// Equal in two rounds if the stream has not moved, however far the outbox has grown since.
    pub at: StreamEnd,
    pub difference: ShardDifference,
}

/// A difference at the ends of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ShardDifference {
    /// The stream does not end where the outbox does.
    Ends {
        shard: Shard,
        stream: String,
        /// The highest position of the outbox.
        head: i64,
        /// The sequence of that position.
        expected: i64,
        /// The last sequence of the stream; `None` when there is no stream.
        found: Option<i64>,
    },
    /// The stream has lost messages before its end.
    Missing { shard: Shard, stream: String, messages: i64 },
    /// A projection has parked events; `first` is the lowest of their positions.
    Parked { shard: Shard, projection: String, events: i64, first: i64 },
}

/// A difference at one position of a shard, between the outbox and the stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EventDifference {
    /// Another message is in the event's place; `found` is its id, if it has one.
    OtherEvent {
        shard: Shard,
        position: i64,
        stream: String,
        expected: Ulid,
        found: Option<String>,
    },
    OtherSubject {
        shard: Shard,
        position: i64,
        stream: String,
        event: Ulid,
        expected: String,
        found: String,
    },
    OtherBody {
        shard: Shard,
        position: i64,
        stream: String,
        event: Ulid,
    },
    /// The stream does not hold the event; `next` is the sequence and id of the message that it holds next.
    Missing {
        shard: Shard,
        position: i64,
        stream: String,
        expected: Ulid,
        next: Option<(i64, Option<String>)>,
    },
    /// The stream holds a message where the outbox holds no event; `found` is its id, if it has one.
    Extra {
        shard: Shard,
        stream: String,
        sequence: i64,
        found: Option<String>,
    },
}

impl ShardDifference {
    #[must_use]
    pub fn shard(&self) -> Shard {
        match self {
            Self::Ends { shard, .. } | Self::Missing { shard, .. } | Self::Parked { shard, .. } => *shard,
        }
    }

    /// The first position that differs; `None` when the state of the stream does not tell.
    #[must_use]
    pub fn position(&self) -> Option<i64> {
        match self {
            Self::Ends { head, expected, found, .. } => {
                let behind = (expected - found.unwrap_or_default()).max(0);
                Some(head - behind + 1)
            }
            Self::Missing { .. } => None,
            Self::Parked { first, .. } => Some(*first),
        }
    }

    /// The expected and the found value: of the last sequence (0 without a stream), or of the number of missing
    /// messages or parked events.
    #[must_use]
    pub fn expected_and_found(&self) -> (i64, i64) {
        match self {
            Self::Ends { expected, found, .. } => (*expected, found.unwrap_or_default()),
            Self::Missing { messages: found, .. } | Self::Parked { events: found, .. } => (0, *found),
        }
    }
}

impl fmt::Display for ShardDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ends { stream, head, found: Some(found), .. } => {
                write!(f, "stream {stream} ends at {found}, the outbox at {head}")
            }
            Self::Ends { stream, head, found: None, .. } => {
                write!(f, "stream {stream} is not there, the outbox ends at {head}")
            }
            Self::Missing { stream, messages, .. } => {
                write!(f, "{messages} messages are missing from stream {stream}")
            }
            Self::Parked { shard, projection, events, first } => {
                write!(
                    f,
                    "{events} events of shard {shard} are parked for {projection}, the first at {first}"
                )
            }
        }
    }
}

impl EventDifference {
    #[must_use]
    pub fn shard(&self) -> Shard {
        match self {
            Self::OtherEvent { shard, .. }
            | Self::OtherSubject { shard, .. }
            | Self::OtherBody { shard, .. }
            | Self::Missing { shard, .. }
            | Self::Extra { shard, .. } => *shard,
        }
    }

    /// The position in the outbox; nothing where only the stream holds something.
    #[must_use]
    pub fn position(&self) -> Option<i64> {
        match self {
            Self::OtherEvent { position, .. }
            | Self::OtherSubject { position, .. }
            | Self::OtherBody { position, .. }
            | Self::Missing { position, .. } => Some(*position),
            Self::Extra { .. } => None,
        }
    }
}

impl fmt::Display for EventDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |id: &Option<String>| id.clone().unwrap_or_else(|| "a message without id".to_owned());
        match self {
            Self::OtherEvent { position, stream, expected, found, .. } => {
                let found = name(found);
                write!(
                    f,
                    "position {position} is event {expected} in the outbox and {found} in stream {stream}"
                )
            }
            Self::OtherSubject { position, stream, event, expected, found, .. } => {
                write!(
                    f,
                    "position {position}, event {event}, belongs on {expected}; stream {stream} has it on {found}"
                )
            }
            Self::OtherBody { position, stream, event, .. } => {
                write!(
                    f,
                    "position {position}, event {event}, has another body in stream {stream} than in the outbox"
                )
            }
            Self::Missing { position, stream, expected, next, .. } => {
                write!(f, "position {position} is event {expected} in the outbox; stream {stream} ")?;
                match next {
                    Some((sequence, id)) => write!(f, "goes on with {} at {sequence}", name(id)),
                    None => write!(f, "ends before it"),
                }
            }
            Self::Extra { stream, sequence, found, .. } => {
                let found = name(found);
                write!(f, "stream {stream} has {found} at {sequence}; the outbox has nothing in that place")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_position_that_differs_is_behind_the_shorter_side() {
        let ends = |found| ShardDifference::Ends {
            shard: Shard(0),
            stream: "S-0".to_owned(),
            head: 107,
            expected: 157, // an epoch began at sequence 51
            found,
        };
        assert_eq!(ends(Some(155)).position(), Some(106), "the stream is behind");
        assert_eq!(ends(Some(160)).position(), Some(108), "the outbox is behind");
        assert_eq!(ends(Some(155)).to_string(), "stream S-0 ends at 155, the outbox at 107");
        assert_eq!(ends(None).to_string(), "stream S-0 is not there, the outbox ends at 107");
    }
}
