//! The example of a subscriber, in Python: a process, and the coupons that it knows of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outbox_relay::zoo;
use tokio::process::Command;
use ulid::Ulid;
use uuid::Uuid;

use super::newest::python;
use super::{Process, World, wait_until};

const SUBSCRIBER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/subscriber.py");
/// For two thousand events, each a transaction.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// With these arguments, not started.
pub(crate) fn subscriber(world: &World, arguments: &[&str]) -> Process {
    started_by(world, &[], arguments)
}

/// The same, which gets a signal after so many seconds. It then ends with 124, or with 137 if that was KILL.
pub(crate) fn ended_after(world: &World, signal: &str, seconds: &str, arguments: &[&str]) -> Process {
    started_by(world, &["timeout", "--foreground", "-s", signal, seconds], arguments)
}

fn started_by(world: &World, before: &[&str], arguments: &[&str]) -> Process {
    let (python, script) = (python(), script(world));
    let command = [before, &[python.to_str().unwrap(), script.to_str().unwrap()], arguments].concat();
    let mut subscriber = world.program("subscriber", &command);
    subscriber.set("NATS_URL", &world.servers.nats_url());
    subscriber
}

/// Where the example is, or a copy of it with a bug.
fn script(world: &World) -> PathBuf {
    if !zoo::has("subscriber-sees-no-gap") {
        return SUBSCRIBER.into();
    }
    let source = fs::read_to_string(SUBSCRIBER).unwrap();
    let check = "not follows(";
    assert!(source.contains(check), "the example has no {check}");
    let copy = world.folder().join("subscriber.py");
    fs::write(&copy, source.replace(check, "False and follows(")).unwrap();
    copy
}

/// Starts it, to run to a position.
pub(crate) async fn until(subscriber: &mut Process, position: i64) {
    subscriber.argument(&format!("--until={position}"));
    subscriber.launch();
    wait_until("the subscriber is done", DRAIN_LIMIT, async || !subscriber.runs()).await;
    assert_eq!(subscriber.ended().await.code(), Some(0), "{}", subscriber.log());
}

/// What the subscriber has: coupons and their users.
pub(crate) async fn coupons(database: &Path) -> BTreeMap<Ulid, String> {
    let rows = sqlite(database, "SELECT id, user FROM coupons").await;
    let rows: Vec<(Ulid, String)> = serde_json::from_slice(&rows).unwrap();
    rows.into_iter().collect()
}

/// The rows that a statement answers, as JSON.
pub(crate) async fn sqlite(database: &Path, statement: &str) -> Vec<u8> {
    let script = "import json, sqlite3, sys\n\
                  database = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                  print(json.dumps(database.execute(sys.argv[2]).fetchall()))";
    let output =
        Command::new(python()).args(["-c", script]).arg(database).arg(statement).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// What Postgres has.
pub(crate) async fn issued(world: &World) -> BTreeMap<Ulid, String> {
    let rows: Vec<(Uuid, String)> =
        sqlx::query_as("SELECT id, user_id FROM coupons").fetch_all(&world.pool).await.unwrap();
    rows.into_iter().map(|(id, user)| (id.into(), user)).collect()
}
