//! The command `coupon`, run to its end.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Finished {
    /// Nothing when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// One that still runs. It is killed when it is dropped.
pub(crate) struct Running(Child);

/// Runs it to its end, with this environment and nothing else.
pub(crate) async fn coupon(arguments: &[&str], environment: &[(&'static str, String)]) -> Finished {
    start(arguments, environment).finished().await
}

/// Starts it, and does not wait.
pub(super) fn start(arguments: &[&str], environment: &[(&'static str, String)]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coupon"));
    command.args(arguments).env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Running(command.spawn().unwrap())
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.0.id().expect("the command runs").cast_signed();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits until it ends.
    pub(crate) async fn finished(self) -> Finished {
        let output = timeout(LIMIT, self.0.wait_with_output()).await;
        let output = output.expect("the command does not end").unwrap();
        Finished {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
