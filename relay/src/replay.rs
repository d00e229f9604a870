//! Replay: publishes selected events again, for a subscriber who asks. They go to subjects of their own,
//! `replay.<run>.<type>.<key>.<shard>`, which no other subscriber reads. A replayed event keeps its id and its
//! position; only its message id differs: `<event id>.<run>`.
//!
//! Table `outbox_replays` keeps each [`Run`]: what was selected, and up to which position of each shard. A run
//! can be interrupted at any point and resumed. In the end the stream holds each selected event once, in order
//! of shard and position. Why:
//!
//! * The stream itself is the cursor of a run: everything up to the run's last message is published.
//! * A process that starts or resumes a run reads the stream's end first, and the run's last message after
//!   that. Its first message is stored only if the stream still ends there, and each later one only directly
//!   after the one before it. So a message that a killed, frozen or interrupted process still sends is either
//!   the next event of the run or refused, and the same holds for what is sent in its place. No process has to
//!   wait for another, and no time window matters.
//! * One run is active at a time, by an advisory lock of the connection that does the work. Correctness does
//!   not need this: two active runs would only refuse each other's messages again and again.
//! * To cancel a run, its row is marked first; then a message is put at the stream's end, after everything that
//!   was stored, so that everything still in flight is refused; then the messages of the run are removed.

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
