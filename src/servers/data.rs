//! The first data of Postgres: made, or copied from a template.

use std::path::Path;
use std::process::Command;

use super::{Server, ServersError, cannot_prepare};

const LOG_TAIL_LINES: usize = 12;
/// Fills the current folder with a cluster that has the role and the database `coupon`; unsynced,
/// as there is nothing to lose yet.
const INIT: &str = r#""${0%/*}/initdb" --no-sync -U coupon -A trust -E UTF8 --locale=C -D . &&
echo 'CREATE DATABASE coupon' | "$0" --single -F -D . postgres"#;

impl Server {
    /// Gives Postgres its first data.
    pub(super) async fn fill(&self, template: Option<&Path>) -> Result<(), ServersError> {
        match template {
            Some(template) => copy(template, &self.dir).await,
            None => run("initdb", self.shell(INIT)).await,
        }
    }
}

/// Keeps owner and mode; shares blocks where the file system can.
pub(super) async fn copy(from: &Path, to: &Path) -> Result<(), ServersError> {
    let mut copy = Command::new("cp");
    copy.args(["-a", "--reflink=auto"]).arg(from.join(".")).arg(to);
    run("cp", copy).await
}

async fn run(program: &'static str, command: Command) -> Result<(), ServersError> {
    let mut command = tokio::process::Command::from(command);
    let output = command.kill_on_drop(true).output().await.map_err(cannot_prepare("the data"))?;
    if output.status.success() {
        return Ok(());
    }
    let log = tail(&output.stderr);
    Err(ServersError::Ended { program, log })
}

pub(super) fn tail(log: &[u8]) -> String {
    let log = String::from_utf8_lossy(log);
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}
