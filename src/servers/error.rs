//! Why a server does not run.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Limit for a server to answer after its start, recovery included.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

/// Bytes in the path of a socket, at most: Linux keeps 108 for it, and the last is a zero.
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Lines of a log that an error shows: what a server says when it cannot start fits in.
const LOG_TAIL_LINES: usize = 12;

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    #[error("cannot find {programs}: `apt-get install {packages}`, or set the variables in brackets")]
    Missing { programs: String, packages: String },
    #[error("{program} ended early; the end of its log:\n{log}")]
    Ended { program: &'static str, log: String },
    #[error("{program} did not answer within {ANSWER_TIME_MAX:?}; the end of its log:\n{log}")]
    Silent { program: &'static str, log: String },
    #[error("other servers use the folder {}", folder.display())]
    InUse { folder: PathBuf },
    #[error(
        "the path of the temporary folder {folder} is too long: a socket in it could have {bytes} bytes, and may have \
         {SOCKET_PATH_BYTES_MAX}; set TMPDIR to a shorter path"
    )]
    LongPath { folder: String, bytes: usize },
    #[error("cannot prepare {what}")]
    Io { what: &'static str, source: io::Error },
}

/// An error of input or output while `what` was prepared.
pub(super) fn cannot_prepare(what: &'static str) -> impl FnOnce(io::Error) -> ServersError {
    move |source| ServersError::Io { what, source }
}

/// The last lines of a log.
pub(super) fn tail(log: &[u8]) -> String {
    let log = String::from_utf8_lossy(log);
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}
