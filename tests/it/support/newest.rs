//! What `tests/requirements.txt` names, as `.ci/servers test` has installed it, and the NATS of Debian beside it.

use std::path::{Path, PathBuf};

/// The NATS of Debian, whichever one `NATS_SERVER` names.
pub(crate) fn packaged_nats_server() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut programs = folders.map(|folder| folder.join("nats-server"));
    programs.find(|program| program.is_file()).expect("nats-server is missing: run `.ci/servers test`")
}

/// The newest NATS.
pub(crate) fn newest_nats_server() -> PathBuf {
    installed("nats-server")
}

/// A Python that has the client of NATS.
pub(crate) fn python() -> PathBuf {
    installed("python")
}

fn installed(program: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin").join(program);
    assert!(path.is_file(), "{} is missing: run `.ci/servers test`", path.display());
    path
}
