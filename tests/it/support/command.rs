//! The command `coupon`, run to its end.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Finished {
    /// Nothing when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// One that still runs. It is killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    /// What it has said that was listened to.
    heard: Vec<u8>,
}

/// Runs it to its end, with this environment and nothing else.
pub(crate) async fn coupon(arguments: &[&str], environment: &[(&'static str, String)]) -> Finished {
    start(arguments, environment).finished().await
}

/// The same, with this text on standard input.
pub(crate) async fn coupon_fed(
    arguments: &[&str],
    environment: &[(&'static str, String)],
    text: &str,
) -> Finished {
    let mut running = start_with(arguments, environment, Stdio::piped());
    let mut input = running.child.stdin.take().unwrap();
    // Nobody reads on where it ends before.
    let ((), finished) = tokio::join!(
        async move {
            let _ = input.write_all(text.as_bytes()).await;
        },
        running.finished()
    );
    finished
}

/// Starts it, and does not wait.
pub(crate) fn start(arguments: &[&str], environment: &[(&'static str, String)]) -> Running {
    start_with(arguments, environment, Stdio::null())
}

fn start_with(arguments: &[&str], environment: &[(&'static str, String)], input: Stdio) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coupon"));
    command.args(arguments).env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Running { child: command.spawn().unwrap(), heard: Vec::new() }
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("the command runs").cast_signed();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits until it has said this on standard output.
    pub(crate) async fn says(&mut self, words: &str) {
        let out = self.child.stdout.as_mut().unwrap();
        let listen = async {
            while !String::from_utf8_lossy(&self.heard).contains(words) {
                assert_ne!(
                    out.read_buf(&mut self.heard).await.unwrap(),
                    0,
                    "it ended without saying {words}"
                );
            }
        };
        timeout(LIMIT, listen).await.unwrap_or_else(|_| panic!("the command does not say {words}"));
    }

    /// What it has said that was listened to.
    pub(crate) fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard).into_owned()
    }

    /// Nobody reads on.
    pub(crate) fn hang_up(&mut self) {
        drop(self.child.stdout.take());
    }

    /// Waits until it ends.
    pub(crate) async fn finished(mut self) -> Finished {
        let output = timeout(LIMIT, self.child.wait_with_output()).await;
        let output = output.expect("the command does not end").unwrap();
        self.heard.extend(output.stdout);
        Finished {
            code: output.status.code(),
            out: String::from_utf8(self.heard).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
