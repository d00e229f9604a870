//! The writer: group commit. What has queued up while the last batch was in flight is written by the next call, in
//! one transaction; nothing waits on a timer.
//!
//! It knows nothing of what it writes. Each kind of [`Work`] has a lane: a bounded queue, and one call of a SQL
//! function for a batch. A shard has one worker and one connection for all its lanes, which it serves in turn: the
//! shard's lock is held through the commit, so a second connection could only wait for it.
//!
//! `work` is what its users see, `worker` holds the connection and serves the lanes, `lane` commits the batches.

mod lane;
mod work;
mod worker;

pub use self::work::{BATCH_ITEMS, CALL_SECONDS, Measures, Work, WriteError, Writer};
pub use self::worker::{ONE_PLAN, WriterWorker};
