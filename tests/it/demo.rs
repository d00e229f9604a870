//! `coupon demo`: what it prints can be pasted, and what it keeps can be gone on with.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;
use ulid::Ulid;

use crate::support::{Finished, Running, start_command};

/// For three servers and a few claims, beside other tests.
const LIMIT: Duration = Duration::from_secs(100);

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("demo {}", Ulid::generate())))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn demo(more: &[&str]) -> Running {
    let arguments = [&["demo", "--coupons", "20", "--users", "15", "--keep"], more].concat();
    let names = ["PATH", "TMPDIR", "POSTGRES", "REDIS_SERVER", "NATS_SERVER"];
    let environment: Vec<_> =
        names.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?))).collect();
    start_command(&arguments, &environment)
}

/// Waits until it has printed all, and returns the lines to paste.
async fn serving(demo: &mut Running) -> String {
    let lines = timeout(LIMIT, demo.says("$API/v1/campaigns/$ID")).await;
    lines.expect("the demo serves");
    demo.heard().split_once("terminal:\n").unwrap().1.to_owned()
}

/// What a shell prints that has the pasted lines, with nothing else in its environment but the usual commands.
async fn pasted(lines: &str, command: &str) -> String {
    let script = format!("{lines}\n{command}");
    let mut shell = Command::new("bash");
    shell.args(["--noprofile", "--norc", "-c", &script]).env_clear().env("PATH", "/usr/bin:/bin");
    let output = timeout(LIMIT, shell.stdin(Stdio::null()).output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn ended(demo: Running) -> Finished {
    demo.signal(Signal::INT);
    let finished = demo.finished().await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    finished
}

#[tokio::test]
async fn what_a_demo_prints_can_be_pasted_and_what_it_keeps_is_gone_on_with() {
    let folder = Folder::new();
    let mut first = demo(&["--data", folder.path()]);
    let lines = serving(&mut first).await;
    let claim = |user: &str| {
        format!("curl -s -H \"$AUTH\" $API/v1/campaigns/$ID/coupons --json '{{\"user_id\":\"{user}\"}}'")
    };
    let printed =
        pasted(&lines, &format!("echo; {}; echo; coupon campaign show $ID --json", claim("alice"))).await;
    let mut answers = printed.splitn(3, '\n');
    let campaign: Value = serde_json::from_str(answers.next().unwrap()).unwrap();
    let coupon: Value = serde_json::from_str(answers.next().unwrap()).unwrap();
    let shown: Value = serde_json::from_str(answers.next().unwrap()).unwrap();
    assert_eq!((&campaign["issued"], &shown["issued"]), (&15.into(), &16.into()));
    let closes: String = serde_json::from_value(campaign["closes_at"].clone()).unwrap();
    assert!(closes[..4].parse::<i32>().unwrap() > 2026, "{closes}");

    let refused = demo(&["--data", folder.path()]).finished().await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("other servers use the folder"), "{refused:?}");
    let quiet = ended(first).await.err;
    assert_eq!(quiet.lines().count(), 2, "{quiet}");

    let mut third = demo(&["--data", folder.path()]);
    let lines = serving(&mut third).await;
    let printed = pasted(&lines, &format!("echo; {}", claim("alice"))).await;
    let (again, refusal) = printed.split_once('\n').unwrap();
    let (again, refusal): (Value, Value) =
        (serde_json::from_str(again).unwrap(), serde_json::from_str(refusal).unwrap());
    assert_eq!((&again["id"], &again["issued"]), (&campaign["id"], &16.into()));
    assert_eq!(refusal["coupon"]["id"], coupon["id"]);
    let finished = ended(third).await;
    assert!(finished.out.contains("balanced") && !finished.out.contains("offered"), "{finished:?}");
}

/// It holds files of somebody else, or its path leaves no room for a socket.
#[tokio::test]
async fn a_demo_keeps_away_from_a_folder_that_it_cannot_use() {
    let folder = Folder::new();
    std::fs::create_dir(&folder.0).unwrap();
    std::fs::write(folder.0.join("letter.txt"), "dear").unwrap();
    let finished = demo(&["--data", folder.path()]).finished().await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.err.contains("not empty"), "{finished:?}");
    let left: Vec<_> = std::fs::read_dir(&folder.0).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let long = format!("{}/{}", folder.path(), "x".repeat(84));
    let finished = demo(&["--data", &long]).finished().await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.err.contains("longer than 83 bytes"), "{finished:?}");
    assert!(!Path::new(&long).exists());
}
