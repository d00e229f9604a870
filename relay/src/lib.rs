#![doc = include_str!("../README.md")]
//! # Modules
//!
//! In the order in which an event meets them:
//!
//! * [`event`]: events as a service appends them, and as a reader receives them.
//! * [`mod@append`]: appends events within the caller's transaction.
//! * [`outlet`] and [`site`]: the names of a service's streams, subjects and types; where one shard is.
//! * [`deployment`] and [`ownership`]: several deployments of a service, and whose a stream is.
//! * [`relay`]: copies the outbox of a shard into its stream.
//! * [`epoch`]: maps positions of the outbox to sequences of the stream.
//! * [`standing`]: what the servers say about a shard, whichever process runs its relay.
//! * [`status`] and [`recovery`]: what a relay reports, and what an operator decides when it has stopped.
//! * [`projector`], [`mod@feed`] and [`projection`]: apply the events of a stream to tables, each event once.
//! * [`follow_up`]: appends the events that follow from an applied event.
//! * [`dead`]: events that a projection could not apply.
//! * [`rebuild`]: builds a projection from all its events, beside the old one.
//! * [`retention`]: drops old partitions of the outbox.
//! * [`mod@replay`]: publishes selected events again, for a subscriber who asks.
//! * [`audit`]: proves that a shard's outbox and its stream hold the same events.
//! * [`metrics`]: what relays and projectors measure.
//! * [`outage`]: says once that a server is away.
//! * [`in_time`]: a limit on every wait for Postgres.
//! * [`stream`]: creates and finds streams.
//! * [`schema`]: applies the tables and functions to Postgres.
//! * [`strict`]: parsers of outside text.
//! * [`retry`]: the waits between attempts.
//! * [`failpoint`] and [`zoo`]: faults and bugs that tests inject.

mod acknowledgement;
pub mod append;
pub mod audit;
mod cursor;
pub mod dead;
pub mod deployment;
pub mod epoch;
pub mod event;
pub mod failpoint;
pub mod feed;
pub mod follow_up;
mod holders;
pub mod in_time;
mod leadership;
mod messages;
pub mod metrics;
pub mod outage;
mod outbox;
pub mod outlet;
pub mod ownership;
mod pipeline;
mod positions;
pub mod projection;
pub mod projector;
pub mod reason;
pub mod rebuild;
pub mod recovery;
pub mod relay;
pub mod replay;
pub mod retention;
pub mod retry;
pub mod schema;
pub mod site;
pub mod sqlstate;
pub mod standing;
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

/// Parsers, public only for fuzz targets and tests.
#[doc(hidden)]
pub mod parsers {
    pub use crate::acknowledgement::stored;
}
