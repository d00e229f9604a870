//! What `tests/requirements.txt` names, as `.ci/servers test` has installed it.

use std::path::{Path, PathBuf};

/// The newest NATS, where that of Debian is not new enough.
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
