//! A transactional outbox in Postgres, published to NATS JetStream exactly once and in order.
//!
//! A service [appends](append()) its events in the transaction that causes them. Each shard of the
//! outbox numbers its events 1, 2, 3, … without a gap, in the order of commit. A [`Relay`] copies
//! each shard into a stream of its own, which nobody else writes, so that **the stream's sequence
//! is the outbox's position**: every publish says which sequence it expects to follow, and the
//! server refuses a second copy, a hole, a reordering, or a relay that was frozen and woke up.
//! There is no window in time and no mark to keep: the stream's own end is the cursor.
//! (After a disaster that cannot be healed an operator begins a new [`epoch`], from where on the two differ
//! by a constant.)
//!
//! The modules, in the order in which an event meets them:
//!
//! * [`event`]: what a service appends, and what a reader gets.
//! * [`mod@append`]: into the outbox, within the caller's transaction.
//! * [`outlet`]: how a service names its streams, subjects and types.
//! * [`relay`]: from the outbox to the stream.
//! * [`epoch`]: how positions and sequences are tied together.
//! * [`status`] and [`recovery`]: what a relay says of itself, and what an operator can decide when it stops.
//! * [`projector`], [`mod@feed`] and [`projection`]: from the stream into tables, each event once.
//! * [`dead`]: events that could not be applied.
//! * [`rebuild`]: a projection made again, beside the old one.
//! * [`retention`]: what of the outbox may go.
//! * [`mod@replay`]: events again, to a subscriber who asks for them.
//! * [`audit`]: proves that a shard's outbox and its stream hold the same.
//! * [`metrics`]: what all this measures.
//! * [`stream`]: the streams themselves.
//! * [`retry`]: the waits between attempts.

pub mod append;
pub mod audit;
mod cursor;
pub mod dead;
pub mod epoch;
pub mod event;
pub mod feed;
mod leadership;
pub mod metrics;
pub mod outlet;
mod pipeline;
pub mod projection;
pub mod projector;
pub mod rebuild;
pub mod recovery;
pub mod relay;
pub mod replay;
pub mod retention;
pub mod retry;
pub mod status;
pub mod stream;

pub use append::{AppendError, append};
pub use event::{Event, NewEvent};
pub use metrics::Metrics;
pub use outlet::{Outlet, Shard};
pub use projection::Projection;
pub use projector::Projector;
pub use relay::Relay;
pub use status::{Halt, RelayStatus};

/// The tables and functions of the outbox. Its migrations share the table of migrations with those
/// of the service, which therefore ignores the ones it does not know, as this one does.
#[must_use]
pub fn migrator() -> sqlx::migrate::Migrator {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.set_ignore_missing(true);
    migrator
}
