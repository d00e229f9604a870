//! The house rules that a test can hold: imports point one way, and drivers stay in their rooms.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From the top down: a module imports only what stands below it.
const LAYERS: [&str; 28] = [
    "main",
    "cli",
    "doctor",
    "app",
    "http",
    "health",
    "audit",
    "connections",
    "issue",
    "writer",
    "gate",
    "rush",
    "wallet",
    "settlement",
    "campaign",
    "coupon",
    "event",
    "cause",
    "identity",
    "money",
    "json",
    "page",
    "ids",
    "storage",
    "schema",
    "client",
    "config",
    "progress",
];

pub(crate) fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// `http` of `src/http/claim.rs`, `app` of `src/app.rs`.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

fn imports(text: &str) -> BTreeSet<String> {
    let paths = text.split("crate::").skip(1);
    paths
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned())
        .collect()
}

#[test]
fn imports_point_downwards() {
    let layer = |module: &str| LAYERS.iter().position(|name| *name == module);
    for (path, text) in sources("src") {
        let Some(from) = layer(&module(&path)) else { continue };
        for import in imports(&text) {
            if import == module(&path) {
                continue;
            }
            let allowed = layer(&import).is_none_or(|to| to > from);
            assert!(allowed, "{} imports {import}, which stands above it", path.display());
        }
    }
}

#[test]
fn drivers_stay_in_their_rooms() {
    for (driver, rooms) in [
        ("redis::", &["gate", "connections", "config", "doctor"][..]),
        ("async_nats::", &["connections", "health", "doctor"]),
        ("axum::", &["http"]),
        ("hyper::", &["http", "client", "rush"]),
    ] {
        for (path, text) in sources("src") {
            let uses = text.lines().any(|line| {
                line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
                    .any(|word| word.starts_with(driver))
            });
            assert!(!uses || rooms.contains(&module(&path).as_str()), "{} uses {driver}", path.display());
        }
    }
    for (path, text) in sources("relay/src") {
        assert!(
            !text.to_lowercase().contains("coupon"),
            "{}: the relay knows nothing of coupons",
            path.display()
        );
        let room = path.file_name().unwrap() == "retry.rs";
        assert!(
            room || !text.contains("backoff::"),
            "{}: only retry.rs knows the crate backoff",
            path.display()
        );
    }
}

#[test]
fn status_codes_and_drivers_have_their_rooms_in_http() {
    for (path, text) in sources("src/http") {
        let room = ["problem_kind.rs", "answer.rs"].iter().any(|file| path.ends_with(format!("http/{file}")));
        assert!(room || !text.contains("StatusCode"), "{} knows status codes", path.display());
        for driver in ["sqlx", "redis::", "async_nats", "outbox_relay"] {
            assert!(!text.contains(driver), "{} names {driver}", path.display());
        }
    }
}

#[test]
fn the_project_speaks_of_itself_alone() {
    for folder in ["src", "relay/src", "tests"] {
        for (path, text) in sources(folder) {
            for word in ["to\u{64}o!(", "unimple\u{6d}ented!(", "FIX\u{4d}E", "#[ig\u{6e}ore"] {
                assert!(!text.contains(word), "{} holds {word}", path.display());
            }
        }
    }
}

/// The names of tests in a text: `module::name`, in backticks, where functions have parentheses.
fn named_tests(text: &str) -> Vec<&str> {
    let is_name = |span: &&str| {
        span.contains("::")
            && span.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c))
    };
    text.split('`').filter(is_name).collect()
}

#[test]
fn every_test_that_the_outbox_names_exists() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_tests_exist(&fs::read_to_string(folder.join("relay/README.md")).unwrap());
}

/// There are the tests that a text names.
pub(crate) fn assert_tests_exist(text: &str) {
    let named = named_tests(text);
    assert!(named.len() > 50, "{named:?}");
    for test in named {
        let (modules, name) = test.rsplit_once("::").unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(modules.replace("::", "/"));
        let source = [path.with_extension("rs"), path.join("mod.rs")].into_iter().find(|file| file.is_file());
        let source = source.unwrap_or_else(|| panic!("there is no module of {test}"));
        let source = fs::read_to_string(source).unwrap();
        // Of its own, or one for each kind of server.
        let proofs =
            [format!("test]\nfn {name}()"), format!("test]\nasync fn {name}()"), format!("\n    {name}\n")];
        assert!(proofs.iter().any(|proof| source.contains(proof)), "there is no test {test}");
    }
}
