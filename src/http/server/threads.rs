//! Threads of its own for HTTP. On shared threads, thousands of busy connections keep the gate and the writers waiting
//! for theirs: with 9,000 connections, calls to Redis timed out, and one claim in fourteen was served of those that can
//! be.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// As many threads as the machine has processors, in addition to those of everything else.
#[derive(Debug)]
pub struct Threads(Option<Runtime>);

impl Threads {
    /// # Errors
    /// When no more threads can be started.
    pub fn start() -> io::Result<Self> {
        Ok(Self(Some(Builder::new_multi_thread().thread_name("http").enable_all().build()?)))
    }

    /// Runs `task` on these threads, to its end or until `tasks` is dropped.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static, tasks: &mut JoinSet<()>) {
        if let Some(runtime) = &self.0 {
            tasks.spawn_on(task, runtime.handle());
        }
    }
}

/// Connections to Postgres that were opened on these threads end with them, so drop this last.
impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
