//! The guard: it owns the folder, and ends the servers that are noted in it when this process ends.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::error::{SOCKET_PATH_BYTES_MAX, ServersError, cannot_prepare};

/// Creates the folder and prints its name; waits until its owner ends; ends each process that a file `*.pid` names as
/// "signal pid"; releases the shared memory of a killed Postgres; removes the folder.
const GUARD: &str = r#"
trap '' HUP INT TERM PIPE
folder=$(mktemp -d "${TMPDIR:-/tmp}/coupon.XXXXXX") && chmod 711 "$folder" || exit
echo "$folder"
while read -r _; do :; done
family() { echo "$1" $(cat "/proc/$1/task/$1/children"); }
runs() { kill -0 "$1" && ! grep -q '^State:.Z' "/proc/$1/status"; }
for note in "$folder"/*.pid; do
  read -r signal pid <"$note" || continue
  kill -CONT $(family "$pid"); kill "-$signal" "$pid"
done
polls=400
for note in "$folder"/*.pid; do
  read -r signal pid <"$note" || continue
  # Repeated: a server that has only just started may have missed the first signal.
  while runs "$pid" && [ $((polls -= 1)) -gt 0 ]; do kill "-$signal" "$pid"; sleep 0.02; done
  ! runs "$pid" || kill -KILL $(family "$pid")
done
set -- $(sed -n 7p "$folder/postgres/postmaster.pid")
[ -z "$2" ] || ipcrm -m "$2"
for attempt in 1 2 3 4 5 6 7 8 9; do rm -rf "$folder" && break; sleep 0.5; done"#;

/// The socket with the longest path in the folder: that of Postgres, on a port of five digits.
const LONGEST_SOCKET: &str = "postgres/.s.PGSQL.65535";

#[derive(Debug)]
pub(super) struct Guard {
    process: Child,
    pub(super) folder: PathBuf,
}

impl Guard {
    pub(super) fn start() -> Result<Self, ServersError> {
        let guard = Self::spawn().map_err(cannot_prepare("a temporary folder"))?;
        let bytes = guard.folder.join(LONGEST_SOCKET).as_os_str().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            return Err(ServersError::LongPath { folder: guard.folder.display().to_string(), bytes });
        }
        Ok(guard)
    }

    fn spawn() -> io::Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", GUARD]).process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = shell.spawn()?;
        let mut folder = String::new();
        if let Some(said) = process.stdout.take() {
            BufReader::new(said).read_line(&mut folder)?;
        }
        let folder = PathBuf::from(folder.trim_end());
        let guard = Self { process, folder };
        if guard.folder.is_absolute() {
            return Ok(guard);
        }
        Err(io::Error::other("mktemp failed"))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The end of its input tells it to clean up, which takes ten seconds at most.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
