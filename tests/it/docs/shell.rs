//! A terminal: one bash, in a folder of its own, with the program of the tests where a document builds it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command as Program};
use tokio::time::timeout;

use super::ROOT;
use super::console::Command;
use super::output::{begins_as_shown, shown_differs};
use crate::support::{free_port, wait_until};

/// For one command, with three servers, a debug build and other tests beside it.
const LIMIT: Duration = Duration::from_secs(120);
/// For a command that serves to print what is shown. Shorter, so that its output is shown before a wait fails.
const BEGIN_LIMIT: Duration = Duration::from_secs(110);
/// What the shell prints behind the output of a command, as a line.
const END: &str = "--- end of output ---";
/// What `make demo` runs, and what stands in its place here.
const DEMO: (&str, &str) = (
    ".ci/servers demo && NATS_SERVER=$$(.ci/nats) && export NATS_SERVER && cargo run --release --quiet --bin coupon -- demo",
    "coupon demo",
);
/// Ports in the documents. Each has another number here.
const PORTS: [&str; 2] = ["127.0.0.1:8081", "127.0.0.1:8082"];

pub(super) struct Shell {
    bash: Child,
    commands: ChildStdin,
    output: BufReader<ChildStdout>,
    folder: PathBuf,
    /// Process groups of the commands that are left running.
    running: Vec<Pid>,
    ports: [String; 2],
}

impl Shell {
    /// A new terminal in a new folder.
    pub(super) async fn start(document: &str) -> Self {
        let name = format!("docs-{}-{}", std::process::id(), document.replace('/', "-"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        furnish(&folder);
        let inherited = std::env::var("PATH").unwrap_or_default();
        let coupon = Path::new(env!("CARGO_BIN_EXE_coupon")).parent().unwrap();
        let mut bash = Program::new("bash");
        bash.args(["--noprofile", "--norc"]).current_dir(&folder).env_clear();
        bash.env("PATH", format!("{}/bin:{}:{inherited}", folder.display(), coupon.display()));
        for name in ["HOME", "TMPDIR", "POSTGRES", "REDIS_SERVER", "NATS_SERVER"] {
            bash.envs(std::env::var(name).map(|value| (name, value)));
        }
        bash.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut bash = bash.spawn().unwrap();
        let (commands, output) = (bash.stdin.take().unwrap(), bash.stdout.take().unwrap());
        let (output, ports) = (BufReader::new(output), PORTS.map(|_| format!("127.0.0.1:{}", free_port())));
        let mut shell = Self { bash, commands, output, folder, running: Vec::new(), ports };
        // Every command is a process group; what is left running ends with the shell, however that ends.
        shell.run("set -m; trap 'for job in $(jobs -p); do kill -KILL -- -$job; done' EXIT").await;
        shell
    }

    /// Runs a command to its end, and answers what it printed, on both outputs.
    pub(super) async fn run(&mut self, line: &str) -> String {
        let line = self.with_ports(line);
        self.tell(&format!("{{ {line}\n}} </dev/null 2>&1")).await
    }

    /// Starts a command that serves. It has to print what is shown; then it goes on, until Ctrl-C if that is shown.
    pub(super) async fn leave_running(&mut self, command: &Command) {
        let line = self.with_ports(&command.line);
        let file = self.folder.join(format!("printed-{}", command.number));
        let told = format!("{{ {line}\n}} </dev/null >{} 2>&1 & echo $!", file.display());
        let group = self.tell(&told).await.trim().parse().ok().and_then(Pid::from_raw);
        let group = group.expect("the number of a process");
        self.running.push(group);
        let printed = || fs::read_to_string(&file).unwrap_or_default();
        let begun = wait_until("the command prints what is shown", LIMIT, async || {
            begins_as_shown(command, &printed())
        });
        if timeout(BEGIN_LIMIT, begun).await.is_err() {
            let difference = shown_differs(command, &printed());
            panic!("{}:{}: {}", command.path, command.number, difference.unwrap_or_default());
        }
        if command.is_interrupted() {
            self.interrupt(group).await;
            if let Some(difference) = shown_differs(command, &printed()) {
                panic!("{}:{}: {difference}", command.path, command.number);
            }
        }
    }

    /// All agrees in the end; what was left running is ended by Ctrl-C.
    pub(super) async fn close(mut self) {
        let audited = self.run("until coupon audit --full; do :; done").await;
        assert_eq!(audited.lines().last(), Some("balanced"));
        while let Some(group) = self.running.last().copied() {
            self.interrupt(group).await;
        }
        let Self { commands, bash, .. } = &mut self;
        commands.shutdown().await.unwrap();
        drop(bash.start_kill());
    }

    async fn interrupt(&mut self, group: Pid) {
        kill_process_group(group, Signal::INT).unwrap();
        self.tell(&format!("wait {}", group.as_raw_nonzero())).await;
        self.running.retain(|running| *running != group);
    }

    async fn tell(&mut self, line: &str) -> String {
        let told = format!("{line}\nprintf '\\n%s\\n' '{END}'\n");
        self.commands.write_all(told.as_bytes()).await.unwrap();
        let mut printed = String::new();
        let end = format!("\n{END}\n");
        let listen = async {
            while !printed.ends_with(&end) {
                assert_ne!(self.output.read_line(&mut printed).await.unwrap(), 0, "the shell ended: {line}");
            }
        };
        let heard = timeout(LIMIT, listen).await;
        assert!(heard.is_ok(), "not within {LIMIT:?}: {line}\n{printed}");
        printed.truncate(printed.len() - end.len());
        printed
    }

    fn with_ports(&self, line: &str) -> String {
        PORTS.iter().zip(&self.ports).fold(line.to_owned(), |line, (port, free)| line.replace(port, free))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        for group in &self.running {
            let _ = kill_process_group(*group, Signal::KILL);
        }
        let _ = self.bash.start_kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a reader's folder has: the examples, the Makefile, and the program where `cargo build --release` puts it.
fn furnish(folder: &Path) {
    fs::create_dir_all(folder.join("target/release")).unwrap();
    fs::create_dir_all(folder.join("bin")).unwrap();
    symlink(env!("CARGO_BIN_EXE_coupon"), folder.join("target/release/coupon")).unwrap();
    symlink(Path::new(ROOT).join("examples"), folder.join("examples")).unwrap();
    let makefile = super::read("Makefile");
    assert!(makefile.contains(DEMO.0), "`make demo` runs something else than {}", DEMO.0);
    fs::write(folder.join("Makefile"), makefile.replace(DEMO.0, DEMO.1)).unwrap();
    // Not a link: Python finds its packages by the folder that it is started from.
    let python = crate::support::python();
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", python.display());
    fs::write(folder.join("bin/python"), script).unwrap();
    fs::set_permissions(folder.join("bin/python"), fs::Permissions::from_mode(0o755)).unwrap();
}
