//! The command `coupon` at a terminal, where it may ask.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

/// A command whose input and outputs are a terminal. It is killed when it is dropped.
pub(crate) struct Terminal {
    child: Child,
    screen: tokio::fs::File,
    shown: String,
}

impl Terminal {
    /// Starts `coupon` with this environment and nothing else.
    pub(crate) fn start(arguments: &[&str], environment: &[(&'static str, String)]) -> Self {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap();
        let path = Path::new(OsStr::from_bytes(name.as_bytes()));
        let open = || {
            let flags = OFlags::NOCTTY.bits().cast_signed();
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_coupon"));
        command.args(arguments).env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(open()).stdout(open()).stderr(open()).kill_on_drop(true);
        let child = command.spawn().unwrap();
        Self { child, screen: tokio::fs::File::from_std(File::from(screen)), shown: String::new() }
    }

    /// Waits until this is shown.
    pub(crate) async fn shows(&mut self, words: &str) {
        let look = async {
            while !self.shown.contains(words) {
                assert!(self.read().await, "it ended without showing {words}: {}", self.shown);
            }
        };
        timeout(LIMIT, look).await.unwrap_or_else(|_| panic!("it does not show {words}"));
    }

    /// Forgets what was shown so far.
    pub(crate) fn forget(&mut self) {
        self.shown.clear();
    }

    /// Types a line.
    pub(crate) async fn types(&mut self, line: &str) {
        self.screen.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        self.screen.flush().await.unwrap();
    }

    /// Types Ctrl-C, of which the terminal of a test makes no signal: the command has none to control it.
    pub(crate) fn interrupt(&self) {
        let pid = self.child.id().expect("the command runs").cast_signed();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
    }

    /// Waits until it ends. Returns its exit code, and all that was shown.
    pub(crate) async fn finished(mut self) -> (Option<i32>, String) {
        let ended = async {
            while self.read().await {}
            self.child.wait().await.unwrap()
        };
        let status = timeout(LIMIT, ended).await.expect("the command does not end");
        (status.code(), std::mem::take(&mut self.shown))
    }

    /// Reads on. Returns whether more may follow: when the last program has left a terminal, reading fails.
    async fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.screen.read(&mut bytes).await {
            Ok(count) if count > 0 => {
                self.shown += &String::from_utf8_lossy(&bytes[..count]);
                true
            }
            _ => false,
        }
    }
}
