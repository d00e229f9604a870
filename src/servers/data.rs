//! The first data of Postgres, from initdb or from a template.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;
use std::process::Command;

use super::error::{ServersError, cannot_prepare, tail};

/// Fills the current folder with a cluster that has the role and the database `coupon`. It is not synced, as there is
/// nothing to lose yet.
pub(super) const INIT: &str = r#""${0%/*}/initdb" --no-sync -U coupon -A trust -E UTF8 --locale=C -D . &&
echo 'CREATE DATABASE coupon' | "$0" --single -F -D . postgres"#;

/// Creates a folder for the data of a server that runs as `user`, unless there is one.
pub(super) fn create(dir: &Path, user: Option<(u32, u32)>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    user.map_or(Ok(()), |(uid, gid)| chown(dir, Some(uid), Some(gid)))
}

/// Copies a folder with owners and modes; blocks are shared where the file system can.
pub(super) async fn copy(from: &Path, to: &Path) -> Result<(), ServersError> {
    let mut copy = Command::new("cp");
    copy.args(["-a", "--reflink=auto"]).arg(from.join(".")).arg(to);
    run("cp", copy).await
}

/// Runs a command to its end.
pub(super) async fn run(program: &'static str, command: Command) -> Result<(), ServersError> {
    let mut command = tokio::process::Command::from(command);
    let output = command.kill_on_drop(true).output().await.map_err(cannot_prepare("the data"))?;
    if output.status.success() {
        return Ok(());
    }
    let log = tail(&output.stderr);
    Err(ServersError::Ended { program, log })
}
