//! The first data of Postgres, from initdb or from a template.

use std::path::Path;
use std::process::Command;

use super::error::{ServersError, cannot_prepare, tail};

/// Fills the current folder with a cluster that has the role and the database `coupon`. It is not synced, as there is
/// nothing to lose yet.
pub(super) const INIT: &str = r#""${0%/*}/initdb" --no-sync -U coupon -A trust -E UTF8 --locale=C -D . &&
echo 'CREATE DATABASE coupon' | "$0" --single -F -D . postgres"#;

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
