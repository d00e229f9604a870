//! Events again, to a subscriber who asks for them. They go to subjects of their own,
//! `replay.<run>.<type>.<key>.<shard>`, so that nobody else is disturbed. A replayed event keeps
//! its id and its position; only its message id is another, `<event id>.<run>`.
//!
//! A [`Run`] is remembered in the table `outbox_replays`: what was selected, up to which position
//! of each shard. It can be cut off at any point and resumed. In the end each selected event is in
//! the stream once, and all are in order: shard by shard, by position. Why that is so:
//!
//! * Where a run has got to is what the stream says: all up to the run's last message is there.
//! * Who goes on reads the stream's end first, and the run's last message after that. What it then
//!   publishes is stored only if the stream still ends there, and each message only directly behind
//!   the one before it. So whatever a killed, frozen or cut off process still sends is the next
//!   event of the run, or it is refused; and the same holds for what is sent in its place. Nobody
//!   has to wait for it, and no window in time matters.
//! * One run is at work at a time. That is a courtesy, by an advisory lock of the connection that
//!   does the work: two at once would refuse each other again and again.
//! * Who cancels a run marks it first; then puts a message at the stream's end, which is behind all
//!   that was stored and refuses all that was not; then removes the messages of the run.

mod cancel;
mod chain;
mod error;
mod pace;
mod publishing;
mod replayer;
mod run;
mod run_id;
mod run_state;
mod selection;
mod stored;

pub use self::cancel::cancel;
pub use self::error::ReplayError;
pub use self::publishing::RunEnd;
pub use self::replayer::Replayer;
pub use self::run::{Run, RunRequest, at_work};
pub use self::run_id::{RunId, RunIdError};
pub use self::run_state::RunState;
pub use self::selection::{Selection, ShardPlan};
pub use self::stored::stored;
