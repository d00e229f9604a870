//! Threads of its own for HTTP. On the same ones, a crowd of connections that all have something to do
//! keeps the gate and the writers waiting for their turn: with 9,000 of them they had it so seldom that
//! Redis seemed away, and one claim in fourteen was served of those that can be.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// As many threads as the machine has processors, beside those of everything else.
#[derive(Debug)]
pub struct Threads(Option<Runtime>);

impl Threads {
    /// # Errors
    /// When there can be no more threads.
    pub fn start() -> io::Result<Self> {
        Ok(Self(Some(Builder::new_multi_thread().thread_name("http").enable_all().build()?)))
    }

    /// Runs `task` there, to its end or until nobody waits for it any more.
    pub async fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = JoinSet::new();
        if let Some(runtime) = &self.0 {
            tasks.spawn_on(task, runtime.handle());
        }
        tasks.join_next().await;
    }
}

/// Connections to Postgres that were opened on these threads end with them, so they are to go last.
impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
