#![doc = include_str!("../README.md")]
//! # Modules
//!
//! In the order in which an event meets them:
//!
//! * [`event`]: what a service appends, and what a reader gets.
//! * [`mod@append`]: into the outbox, within the caller's transaction.
//! * [`outlet`]: how a service names its streams, subjects and types.
//! * [`relay`]: from the outbox to the stream.
//! * [`epoch`]: how positions and sequences are tied together.
//! * [`status`] and [`recovery`]: what a relay says of itself, and what an operator can decide when it stops.
//! * [`projector`], [`mod@feed`] and [`projection`]: from the stream into tables, each event once.
//! * [`follow_up`]: the events that follow from those.
//! * [`dead`]: events that could not be applied.
//! * [`rebuild`]: a projection made again, beside the old one.
//! * [`retention`]: what of the outbox may go.
//! * [`mod@replay`]: events again, to a subscriber who asks for them.
//! * [`audit`]: proves that a shard's outbox and its stream hold the same.
//! * [`metrics`]: what all this measures.
//! * [`stream`]: the streams themselves.
//! * [`schema`]: the tables and functions in Postgres.
//! * [`retry`]: the waits between attempts.
//! * [`failpoint`] and [`zoo`]: where tests break in, and what they have to find.

mod acknowledgement;
pub mod append;
pub mod audit;
mod cursor;
pub mod dead;
pub mod epoch;
pub mod event;
pub mod failpoint;
pub mod feed;
pub mod follow_up;
mod leadership;
pub mod metrics;
mod outbox;
pub mod outlet;
mod pipeline;
mod positions;
pub mod projection;
pub mod projector;
pub mod rebuild;
pub mod recovery;
pub mod relay;
pub mod replay;
pub mod retention;
pub mod retry;
pub mod schema;
pub mod site;
pub mod status;
pub mod stream;
pub mod strict;
pub mod zoo;

pub use append::{AppendError, append};
pub use event::{Event, NewEvent};
pub use metrics::Metrics;
pub use outlet::{Outlet, Shard};
pub use projection::Projection;
pub use projector::Projector;
pub use relay::Relay;
pub use site::Site;
pub use status::{Halt, RelayStatus};

/// For those who attack them: parsers that nobody else calls from outside.
#[doc(hidden)]
pub mod parsers {
    pub use crate::acknowledgement::stored;
}
