//! One server: a child process with its data, its port and its log.

use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{iter, net::TcpListener, time::Duration};

use rustix::process::{Pid, Signal};
use tokio::time::{sleep, timeout};

use super::answer::{self, QUESTION_TIME_MAX};
use super::data;
use super::error::{ANSWER_TIME_MAX, ServersError, cannot_prepare, tail};
use super::kind::{Kind, postgres_user};
use super::process::{exists, family, send};

/// Limit for an orderly end; after it the server is killed.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);
/// Between two looks at a child: short, as tests wait for it, and long enough to leave the processor to the child.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Starts on new ports: another process can take a free port before the server has bound it.
const PORT_TRIES_MAX: usize = 5;
/// Random ports that are tried for a free one.
const PORTS_TRIED_MAX: usize = 1_000;
/// Waits for a line of input, then becomes the program `$0`.
const HELD: &str = r#"read -r _ && exec "$0" "$@" </dev/null"#;

/// What differs from the usual way to run a server.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Another program of the same kind.
    pub program: Option<PathBuf>,
    /// Arguments besides the usual ones.
    pub arguments: Vec<String>,
    /// User and password, if it requires a login. Its URL carries them.
    pub login: Option<(String, String)>,
}

/// One server, which can be ended and restarted on the same port and with the same data.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    program: PathBuf,
    setup: Setup,
    /// User and group, if they are not those of this process.
    user: Option<(u32, u32)>,
    dir: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Server {
    /// The id of its process; `None` if it was ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its port on 127.0.0.1, the same after every start.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its data. Its log is beside it, with the extension `log`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its address, preceded by user and password if it requires a login.
    pub(super) fn authority(&self) -> String {
        let login = self.setup.login.as_ref().map(|(user, password)| format!("{user}:{password}@"));
        format!("{}127.0.0.1:{}", login.unwrap_or_default(), self.port)
    }

    /// Starts it unless it runs. Returns when it answers, with all data recovered.
    pub async fn start(&mut self) -> Result<(), ServersError> {
        if self.runs() {
            return Ok(());
        }
        self.launch().map_err(cannot_prepare("a server"))?;
        let answered = timeout(ANSWER_TIME_MAX, self.answered()).await;
        if answered == Ok(true) {
            return Ok(());
        }
        self.kill().await;
        let (program, log) = (self.kind.name(), self.log_tail());
        Err(match answered {
            Ok(_) => ServersError::Ended { program, log },
            Err(_) => ServersError::Silent { program, log },
        })
    }

    /// Ends it, and starts it with another setup, which it keeps from then on.
    pub async fn restart_with(&mut self, setup: Setup) -> Result<(), ServersError> {
        self.stop().await;
        self.setup = setup;
        self.start().await
    }

    /// Ends it in order (SIGINT: sessions are cut, data is flushed); kills it after ten seconds.
    pub async fn stop(&mut self) {
        self.thaw();
        if let Some(child) = &self.child {
            send(Signal::INT, &[Pid::from_child(child)]);
        }
        let ended = async {
            while self.runs() {
                sleep(POLL_INTERVAL).await;
            }
        };
        let _ = timeout(STOP_TIME_MAX, ended).await;
        self.kill().await;
    }

    /// Kills all its processes (SIGKILL). Returns when they are gone.
    pub async fn kill(&mut self) {
        self.freeze();
        let family = self.family();
        send(Signal::KILL, &family);
        let gone = async {
            while self.runs() || family.iter().any(|&pid| exists(pid)) {
                sleep(POLL_INTERVAL).await;
            }
        };
        let _ = timeout(STOP_TIME_MAX, gone).await;
    }

    /// Freezes all its processes (SIGSTOP): connections stay open, nothing answers.
    pub fn freeze(&self) {
        // After the first round nothing forks any more; the second finds what was forked meanwhile.
        send(Signal::STOP, &self.family());
        send(Signal::STOP, &self.family());
    }

    /// Undoes [`Server::freeze`].
    pub fn thaw(&self) {
        send(Signal::CONT, &self.family());
    }

    pub(super) fn at_rest(kind: Kind, program: PathBuf, folder: &Path) -> Result<Self, ServersError> {
        let dir = folder.join(kind.name());
        let user = match kind {
            Kind::Postgres => postgres_user(),
            Kind::Redis | Kind::Nats => None,
        };
        data::create(&dir, user).map_err(cannot_prepare("the data folder"))?;
        Ok(Self { kind, program, setup: Setup::default(), user, dir, port: 0, child: None })
    }

    pub(super) async fn start_on_free_port(&mut self) -> Result<(), ServersError> {
        for _ in 1..PORT_TRIES_MAX {
            self.port = free_port().map_err(cannot_prepare("a port"))?;
            match self.start().await {
                Err(ServersError::Ended { log, .. }) if log.contains("already in use") => {}
                outcome => return outcome,
            }
        }
        self.start().await
    }

    /// Gives Postgres its first data, unless it has data of an earlier start.
    pub(super) async fn fill(&self, template: Option<&Path>) -> Result<(), ServersError> {
        let filled = self.beside("filled");
        if filled.is_file() {
            return Ok(());
        }
        if let Some(template) = template {
            data::copy(template, &self.dir).await?;
        } else {
            // What is there was cut off.
            fs::remove_dir_all(&self.dir)
                .and_then(|()| data::create(&self.dir, self.user))
                .map_err(cannot_prepare("the data folder"))?;
            data::run("initdb", self.shell(data::INIT)).await?;
        }
        fs::write(filled, "").map_err(cannot_prepare("the data folder"))
    }

    /// A shell in the data folder, as the user of the server.
    fn shell(&self, script: &str) -> Command {
        let mut shell = Command::new("sh");
        let program = self.setup.program.as_ref().unwrap_or(&self.program);
        shell.args(["-c", script]).arg(program).current_dir(&self.dir);
        if let Some((uid, gid)) = self.user {
            shell.uid(uid).gid(gid);
        }
        shell
    }

    fn launch(&mut self) -> io::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.beside("log"))?;
        let mut shell = self.shell(HELD);
        shell.args(self.arguments()).process_group(0);
        shell.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let child = self.child.insert(shell.spawn()?);
        let (pid, word) = (child.id(), child.stdin.take());
        fs::write(self.beside("pid"), format!("{} {pid}\n", self.kind.last_signal()))?;
        word.map_or(Ok(()), |mut word| word.write_all(b"go\n"))
    }

    fn arguments(&self) -> Vec<String> {
        let port = self.port.to_string();
        let own = match self.kind {
            Kind::Postgres => vec!["-p".into(), port],
            Kind::Redis => vec!["--port".into(), port],
            Kind::Nats => vec!["-p".into(), port, "-n".into(), self.set()],
        };
        let options = self.kind.options().iter().map(ToString::to_string);
        options.chain(own).chain(self.setup.arguments.iter().cloned()).collect()
    }

    /// Waits for an answer. False if the server ended first.
    async fn answered(&mut self) -> bool {
        while self.runs() {
            if let Ok(Ok(true)) = timeout(QUESTION_TIME_MAX, self.is_ready()).await {
                return true;
            }
            sleep(POLL_INTERVAL).await;
        }
        false
    }

    /// Asks what only this very server can answer, and only when it is ready.
    async fn is_ready(&self) -> io::Result<bool> {
        let login = self.setup.login.as_ref();
        match self.kind {
            Kind::Postgres => answer::postgres(&self.dir.join(format!(".s.PGSQL.{}", self.port))).await,
            Kind::Redis => answer::redis(self.port, login, self.pid().unwrap_or_default()).await,
            Kind::Nats => answer::nats(self.port, login, &self.set()).await,
        }
    }

    /// The name of the folder, as a word. A temporary folder has a name that no other set of servers has.
    fn set(&self) -> String {
        let folder = self.dir.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        folder.replace(|letter: char| !letter.is_ascii_alphanumeric() && !".-_".contains(letter), "_")
    }

    /// Whether the child runs. Forgets it if not, so that no signal goes to another process with its id.
    fn runs(&mut self) -> bool {
        let runs = self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !runs && self.child.take().is_some() {
            let _ = fs::remove_file(self.beside("pid"));
        }
        runs
    }

    /// The child and its own children.
    fn family(&self) -> Vec<Pid> {
        self.child.as_ref().map(family).unwrap_or_default()
    }

    fn beside(&self, extension: &str) -> PathBuf {
        self.dir.with_extension(extension)
    }

    fn log_tail(&self) -> String {
        tail(&fs::read(self.beside("log")).unwrap_or_default())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Usually the guard has ended it, and this only reaps it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Returns a port of 127.0.0.1 that is free now. A process gets each port once until it has asked 22,000 times: while a
/// server is down, its port stays its own. Ports are below the usual range of clients' ports, so that no connection
/// takes one meanwhile, and no client connects to itself there.
///
/// # Errors
/// When none of 1,000 ports is free.
pub fn free_port() -> io::Result<u16> {
    static FIRST: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));
    static TRIED: AtomicU64 = AtomicU64::new(0);
    let next = || u16::try_from(FIRST.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)) % 22_000);
    let ports = iter::repeat_with(|| 10_000 + next().unwrap_or_default());
    let free = ports.take(PORTS_TRIED_MAX).find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    free.ok_or(io::ErrorKind::AddrInUse.into())
}
