//! A process, of the real binary with `coupon serve` or of another program, which can be killed,
//! frozen and started again.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{Http, SOON, free_port, wait_for, wait_until};

/// Becomes the program `$0` when it is told to: when its number is noted.
const HELD: &str = r#"read -r _ && exec "$0" "$@" </dev/null"#;

pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    command: Vec<String>,
    serves: bool,
    environment: Vec<(&'static str, String)>,
    /// Log and note; the guard of the servers ends who is noted there when this process ends.
    files: PathBuf,
    child: Option<Child>,
}

impl Process {
    pub(super) fn new(
        folder: &Path,
        number: usize,
        roles: &str,
        mut environment: Vec<(&'static str, String)>,
    ) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        environment.push(("HTTP_ADDR", address.to_string()));
        let mut command = vec![env!("CARGO_BIN_EXE_coupon").to_owned(), "serve".to_owned()];
        if !roles.is_empty() {
            command.extend(["--roles".to_owned(), roles.to_owned()]);
        }
        let serves = roles.is_empty() || roles.contains("api");
        let mut process = Self::of(folder, format!("serve-{number}"), command, environment);
        (process.address, process.serves) = (address, serves);
        process
    }

    /// Of any program: its command, the program first.
    pub(super) fn of(
        folder: &Path,
        name: String,
        command: Vec<String>,
        environment: Vec<(&'static str, String)>,
    ) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let files = folder.join(&name);
        Self { name, address, command, serves: false, environment, files, child: None }
    }

    /// Changes a variable of the next start.
    pub(crate) fn set(&mut self, variable: &'static str, value: &str) {
        self.environment.retain(|(known, _)| *known != variable);
        self.environment.push((variable, value.to_owned()));
    }

    /// From the next start on it is this binary.
    #[cfg(feature = "drills")]
    pub(crate) fn program(&mut self, binary: &str) {
        binary.clone_into(&mut self.command[0]);
    }

    /// Adds an argument to the next start.
    pub(crate) fn argument(&mut self, argument: &str) {
        self.command.push(argument.to_owned());
    }

    /// From the next start on it may have so many files open.
    pub(crate) fn limit_files(&mut self, count: u32) {
        let limit = format!("ulimit -n {count} && exec \"$0\" \"$@\"");
        self.command.splice(0..0, ["sh".to_owned(), "-c".to_owned(), limit]);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the process does not run").id()
    }

    /// What it holds in memory, in MB.
    pub(crate) fn resident_mb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let kb = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        kb.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
    }

    /// Starts it, and waits until it serves.
    pub(crate) async fn start(&mut self) {
        self.launch();
        if self.serves() {
            self.ready().await;
        }
    }

    /// Whether it has the API.
    pub(crate) fn serves(&self) -> bool {
        self.serves
    }

    /// Starts it, and does not wait.
    pub(crate) fn launch(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log =
            OpenOptions::new().create(true).append(true).open(self.files.with_extension("log")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", HELD]).args(&self.command).process_group(0);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().unwrap();
        fs::write(self.files.with_extension("pid"), format!("KILL {}\n", child.id())).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        self.child = Some(child);
    }

    /// Waits until it serves and all that claims need is there.
    pub(crate) async fn ready(&mut self) {
        let http = self.http();
        wait_until("the process is ready", SOON, async || {
            assert!(self.runs(), "{} ended:\n{}", self.name, self.log());
            http.try_get("/readyz").await.is_some_and(|answer| answer.status == 200)
        })
        .await;
    }

    pub(crate) fn http(&self) -> Http {
        let http = Http::new(self.address);
        if self.command[0] == env!("CARGO_BIN_EXE_coupon") { http } else { http.of_another_version() }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.files.with_extension("log")).unwrap_or_default()
    }

    /// Waits until its log has these words: a thread of its own writes the log, later than what the log tells of.
    pub(crate) async fn told(&self, words: &str) {
        wait_until(&format!("{words:?} is in the log"), SOON, async || self.log().contains(words)).await;
    }

    /// Ends it at once (SIGKILL).
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let mut child = self.child.take().unwrap();
        child.wait().unwrap();
        self.forget();
    }

    /// Asks it to end (SIGTERM).
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let status = wait_for("the process ends", SOON, async || child.try_wait().unwrap()).await;
        self.forget();
        assert!(
            status.core_dumped() || status.signal().is_none(),
            "{} ended by a signal: {status}",
            self.name
        );
        status
    }

    /// Waits until it has crashed, and answers its log.
    pub(crate) async fn crashed(&mut self) -> String {
        let mut child = self.child.take().unwrap();
        let status = wait_for("the process crashes", SOON, async || child.try_wait().unwrap()).await;
        self.forget();
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{}", self.log());
        self.log()
    }

    /// Stops its clock (SIGSTOP): connections stay, nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the process does not run");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    fn forget(&self) {
        let _ = fs::remove_file(self.files.with_extension("pid"));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            self.forget();
        }
    }
}
