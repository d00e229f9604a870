//! README.md and docs/: every command in them runs, its output is as shown, and every name exists.

mod console;
mod live;
pub(crate) mod names;
mod output;
mod shell;
mod spans;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tokio::sync::Mutex;

use self::console::{Command, commands};
use self::output::shown_differs;
use self::shell::Shell;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The document whose blocks behind [`SETUP`] bring a terminal to where all how-to pages begin.
const TUTORIAL: &str = "docs/tutorial.md";
const SETUP: &str = "<!-- setup -->";
/// What keeps a command serving until Ctrl-C.
const SERVES: [&str; 2] = ["--keep", "coupon serve"];
/// Documents run one after the other: each starts three servers and a rush of claims.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A command that does not run here, what would run it, and the file and the text in it that show that it exists.
struct NotRun {
    begins: &'static str,
    because: &'static str,
    file: &'static str,
    has: &'static str,
}

const NOT_RUN: [NotRun; 4] = [
    NotRun { begins: "make test", because: "this is a part of it", file: "Makefile", has: "\ntest:" },
    NotRun {
        begins: "cargo build --release",
        because: "it takes minutes: the program that the tests are built with stands in its place",
        file: "Cargo.toml",
        has: "default-run = \"coupon\"",
    },
    NotRun {
        begins: "pip install nats-py",
        because: "`.ci/servers test` installs it into target/python",
        file: "tests/requirements.txt",
        has: "nats-py",
    },
    NotRun {
        begins: "cargo install --path .",
        because: "it takes minutes, and the program is on the PATH here",
        file: "Cargo.toml",
        has: "default-run = \"coupon\"",
    },
];

/// Every Markdown file that this crate answers for, with its path in the repository.
fn documents() -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> = vec!["README.md".into(), "CHANGELOG.md".into()];
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(Path::new(ROOT).join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() { folders.push(path) } else { paths.push(path) }
        }
    }
    paths.sort();
    paths.into_iter().map(|path| (path.to_str().unwrap().to_owned(), read(&path))).collect()
}

/// The documents, and those that lie beside the code.
pub(crate) fn with_readmes() -> Vec<(String, String)> {
    let beside = ["relay/README.md", "migrations/README.md"].map(|path| (path.to_owned(), read(path)));
    documents().into_iter().chain(beside).collect()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn serves(command: &Command) -> bool {
    SERVES.iter().any(|word| command.line.contains(word)) || command.is_interrupted()
}

/// Runs all commands of a document in one shell, in order, and compares what they print with what is shown.
async fn follow(path: &str) {
    let _alone = ALONE.lock().await;
    let own = commands(path, &read(path));
    let mut all = Vec::new();
    if !own.iter().any(|command| command.line.contains("--keep")) {
        all = commands(TUTORIAL, &read(TUTORIAL));
        all.retain(|command| command.is_setup);
    }
    all.extend(own);
    let mut shell = Shell::start(path).await;
    for command in &all {
        if let Some(left_out) = NOT_RUN.iter().find(|left_out| command.line.starts_with(left_out.begins)) {
            println!("{}: not run, {}", command.line, left_out.because);
            continue;
        }
        println!("$ {}", command.line);
        if serves(command) {
            shell.leave_running(command).await;
        } else {
            let printed = shell.run(&command.line).await;
            if let Some(difference) = shown_differs(command, &printed) {
                panic!("{}:{}: {difference}", command.path, command.number);
            }
        }
    }
    shell.close().await;
}

macro_rules! followed {
    ($($name:ident: $path:literal),* $(,)?) => {
        const FOLLOWED: &[&str] = &[$($path),*];
        $(
            #[tokio::test]
            async fn $name() {
                follow($path).await;
            }
        )*
    };
}

followed! {
    readme: "README.md",
    tutorial: "docs/tutorial.md",
    audit: "docs/how-to/audit.md",
    deploy: "docs/how-to/deploy.md",
    end_users: "docs/how-to/end-users.md",
    event_night: "docs/how-to/event-night.md",
    grant: "docs/how-to/grant.md",
    replay: "docs/how-to/replay.md",
    subscribe: "docs/how-to/subscribe.md",
    tokens: "docs/how-to/tokens.md",
    troubleshoot: "docs/how-to/troubleshoot.md",
}

#[test]
fn every_document_with_commands_is_followed() {
    for (path, text) in documents() {
        let has_commands = !commands(&path, &text).is_empty();
        assert_eq!(has_commands, FOLLOWED.contains(&path.as_str()), "{path}");
    }
}

/// The first hour, as README and the tutorial have it: what each command begins with or has, in order, and a word of what
/// is shown of its output. That the output is so is checked where the document is followed.
const FIRST_HOUR: [(&str, &str); 7] = [
    ("coupon demo --coupons", "serving until Ctrl-C"),
    ("coupon token create", "token above is not shown again"),
    ("coupon campaign create", ""),
    ("coupon campaign open", "state open"),
    ("/coupons --json '{\"user_id\":\"alice\"}'", "\"user_id\":\"alice\""),
    ("until ", "issued"),
    ("python examples/subscriber.py", "coupon.issued.v1"),
];

#[test]
fn a_newcomer_comes_from_the_readme_to_a_coupon_and_its_event() {
    for path in ["README.md", TUTORIAL] {
        assert!(FOLLOWED.contains(&path), "{path} is not followed");
        let all = commands(path, &read(path));
        let mut commands = all.iter();
        for (line, shown) in FIRST_HOUR {
            let is_step = |command: &&Command| {
                command.line.contains(line)
                    && (shown.is_empty() || command.shown.iter().any(|text| text.contains(shown)))
            };
            assert!(
                commands.any(|command| is_step(&command)),
                "{path} has no {line}, with {shown:?} shown, where it is due"
            );
        }
    }
    let links = spans::links(&read("README.md"));
    assert!(links.iter().any(|link| link == TUTORIAL), "README.md does not lead to {TUTORIAL}");
}

/// Every page, by links from README.md on.
#[test]
fn every_document_is_reachable_from_the_readme() {
    let (mut open, mut seen) = (vec![PathBuf::from("README.md")], BTreeSet::new());
    while let Some(path) = open.pop() {
        if path.extension().is_none_or(|ending| ending != "md") || !seen.insert(path.clone()) {
            continue;
        }
        for link in spans::links(&read(&path)).iter().filter(|link| !link.contains("://")) {
            let file = link.split('#').next().unwrap();
            let target = Path::new(ROOT).join(&path).parent().unwrap().join(file);
            let target = target.canonicalize().unwrap_or_else(|error| panic!("{link}: {error}"));
            open.extend(target.strip_prefix(ROOT).ok().map(Path::to_owned));
        }
    }
    for (path, _) in documents() {
        assert!(seen.contains(Path::new(&path)), "no link leads to {path}");
    }
}

#[test]
fn what_is_not_run_exists() {
    let lines: Vec<_> = documents()
        .iter()
        .flat_map(|(path, text)| commands(path, text))
        .map(|command| command.line)
        .collect();
    for NotRun { begins, file, has, .. } in NOT_RUN {
        assert!(lines.iter().any(|line| line.starts_with(begins)), "no document has {begins}");
        assert!(read(file).contains(has), "{file} has no {has}");
    }
}
