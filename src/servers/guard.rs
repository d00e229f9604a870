//! The guard: it owns the folder, and ends the servers that are noted in it when this process ends.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader};
use std::os::unix::{fs::DirBuilderExt, process::CommandExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::error::{SOCKET_PATH_BYTES_MAX, ServersError, cannot_prepare};

/// Creates the folder, or takes the one that `$1` names, and prints its name; waits until its owner ends; ends each
/// process that a file `*.pid` names as "signal pid"; releases the shared memory of a killed Postgres; removes a folder
/// that it created, and only the notes in another.
const GUARD: &str = r#"
trap '' HUP INT TERM PIPE
kept=$1
folder=${kept:-$(mktemp -d "${TMPDIR:-/tmp}/coupon.XXXXXX")}
[ -n "$kept" ] || chmod 711 "$folder" || exit
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
[ -z "$kept" ] || { rm -f "$folder"/*.pid; exit; }
for attempt in 1 2 3 4 5 6 7 8 9; do rm -rf "$folder" && break; sleep 0.5; done"#;

/// In a folder that is kept: the guard locks it and writes its errors to it. Where it is, the folder is one of ours.
const LOG: &str = "guard.log";

/// Bytes of the path of a folder that is kept: Linux takes 107 for the path of a socket, and that of Postgres adds
/// `/postgres/.s.PGSQL.65535`.
const FOLDER_BYTES_MAX: usize = 107 - 24;
/// The socket with the longest path in the folder: that of Postgres, on a port of five digits.
const LONGEST_SOCKET: &str = "postgres/.s.PGSQL.65535";

#[derive(Debug)]
pub(super) struct Guard {
    process: Child,
    pub(super) folder: PathBuf,
}

impl Guard {
    /// Guards a temporary folder.
    pub(super) fn start() -> Result<Self, ServersError> {
        let guard = Self::spawn("".as_ref(), Stdio::null()).map_err(cannot_prepare("a temporary folder"))?;
        let bytes = guard.folder.join(LONGEST_SOCKET).as_os_str().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            return Err(ServersError::LongPath { folder: guard.folder.display().to_string(), bytes });
        }
        Ok(guard)
    }

    /// Guards a folder that is kept, and is created if there is none.
    pub(super) fn start_in(folder: &Path) -> Result<Self, ServersError> {
        let log = lock(folder)?;
        remove_notes(folder)
            .and_then(|()| Self::spawn(folder, log.into()))
            .map_err(cannot_prepare("the folder"))
    }

    /// The guard holds `errors` until the last server has ended, and with it the lock of a folder that is kept.
    fn spawn(folder: &Path, errors: Stdio) -> io::Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", GUARD, "guard"]).arg(folder).process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
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

/// Locks a folder, which is created if there is none. Refuses one that holds something else.
fn lock(folder: &Path) -> Result<File, ServersError> {
    let open = || {
        if folder.as_os_str().len() > FOLDER_BYTES_MAX {
            return Err(io::Error::other(format!("its path is longer than {FOLDER_BYTES_MAX} bytes")));
        }
        DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
        if fs::read_dir(folder)?.next().is_some() && !folder.join(LOG).is_file() {
            return Err(io::Error::other("it is not empty, and not a folder of servers"));
        }
        OpenOptions::new().create(true).append(true).open(folder.join(LOG))
    };
    let log = open().map_err(cannot_prepare("the folder"))?;
    match log.try_lock() {
        Ok(()) => Ok(log),
        Err(TryLockError::WouldBlock) => Err(ServersError::InUse { folder: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(ServersError::Io { what: "the folder", source }),
    }
}

/// Removes the notes of a guard that was killed: another process may have those ids by now.
fn remove_notes(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pid") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
