//! Proves that a shard's outbox and its stream hold the same events: by comparing their ends, at a constant
//! cost, or event by event.

mod comparison;
mod difference;
mod error;
mod gaps;
mod messages;
mod shard;

pub use self::comparison::{Comparison, ShardPart, compare};
pub use self::difference::{EventDifference, Lag, ShardDifference, StreamEnd};
pub use self::error::AuditError;
pub(crate) use self::gaps::missing;
pub use self::shard::{ShardAudit, audit_shard};
