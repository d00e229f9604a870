//! The house rules that a test can hold: imports point one way and in no circle, drivers stay in their rooms, files
//! and functions stay small, and what a text names exists.

mod graph;
mod limits;
mod sizes;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

/// Every module at the top of a crate, from the top down: a module imports only what stands below it.
const LAYERS: [(&str, &[&str]); 2] = [
    (
        "src",
        &[
            "main",
            "lib",
            "cli",
            "doctor",
            "app",
            "http",
            "health",
            "audit",
            "connections",
            "issue",
            "lifecycle",
            "writer",
            "gate",
            "servers",
            "rush",
            "projections",
            "wallet",
            "settlement",
            "campaign",
            "idempotency",
            "coupon",
            "asyncapi",
            "event",
            "cause",
            "limits",
            "identity",
            "money",
            "json",
            "page",
            "trouble",
            "ids",
            "lookup",
            "storage",
            "pool",
            "schema",
            "deployment",
            "client",
            "config",
            "jwk",
            "progress",
            "tls",
            "failpoint",
        ],
    ),
    (
        "relay/src",
        &[
            "lib",
            "schema",
            "retention",
            "replay",
            "rebuild",
            "projector",
            "relay",
            "recovery",
            "leadership",
            "feed",
            "messages",
            "dead",
            "follow_up",
            "projection",
            "cursor",
            "pipeline",
            "retry",
            "positions",
            "site",
            "metrics",
            "outage",
            "standing",
            "status",
            "failpoint",
            "audit",
            "stream",
            "ownership",
            "outbox",
            "epoch",
            "append",
            "event",
            "outlet",
            "deployment",
            "acknowledgement",
            "holders",
            "in_time",
            "reason",
            "sqlstate",
            "zoo",
            "strict",
        ],
    ),
];

/// What only these modules name: drivers, the HTTP library, status codes.
const ROOMS: [(&str, &str, &[&str]); 12] = [
    (
        "src",
        "sqlx",
        &[
            "cli",
            "doctor",
            "health",
            "audit",
            "connections",
            "issue",
            "lifecycle",
            "writer",
            "gate",
            "projections",
            "wallet",
            "settlement",
            "campaign",
            "idempotency",
            "coupon",
            "event",
            "identity",
            "money",
            "ids",
            "lookup",
            "storage",
            "pool",
            "schema",
            "deployment",
            "config",
        ],
    ),
    ("src", "redis", &["gate", "connections", "config", "doctor"]),
    ("src", "async_nats", &["cli::logs", "cli::status::look", "connections", "config", "health", "doctor"]),
    ("src", "axum", &["http", "app::doors"]),
    ("src", "hyper", &["http::server", "identity::jwt::fetch", "client", "rush"]),
    ("src", "governor", &["limits::buckets"]),
    ("src", "StatusCode", &["http::answer", "http::problem_kind", "client", "rush"]),
    ("src", "schemars", &["asyncapi", "event", "ids", "money"]),
    ("src", "askama", &["http::pages"]),
    ("src", "outbox_relay::append", &["campaign::transaction"]),
    ("relay/src", "backoff", &["retry"]),
    ("relay/src", "axum", &[]),
];

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![crate_folder().join(folder)];
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

/// `http::server` of `src/http/server/mod.rs`.
fn module(folder: &str, path: &Path) -> String {
    let inside = path.strip_prefix(crate_folder().join(folder)).unwrap().with_extension("");
    let parts: Vec<&str> = inside.iter().map(|part| part.to_str().unwrap()).collect();
    parts.strip_suffix(&["mod"]).unwrap_or(&parts).join("::")
}

/// `http` of `http::server::slots`.
fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

#[test]
fn imports_point_downwards() {
    for (folder, layers) in LAYERS {
        let layer = |module: &str| {
            let found = layers.iter().position(|name| *name == top(module));
            found.unwrap_or_else(|| panic!("{folder}: {module} has no layer"))
        };
        for (module, imports) in graph::read(folder) {
            layer(&module); // also if it imports nothing, and nothing imports it
            for import in imports.iter().filter(|import| top(import) != top(&module)) {
                assert!(
                    layer(import) > layer(&module),
                    "{folder}: {module} imports {import}, which stands above it"
                );
            }
        }
    }
}

#[test]
fn no_imports_go_in_a_circle() {
    for (folder, _) in LAYERS {
        let graph = graph::read(folder);
        let circles = graph::circles(&graph);
        assert!(circles.is_empty(), "{folder}: {circles:?} lie on a circle");
    }
}

#[test]
fn drivers_stay_in_their_rooms() {
    for (folder, name, rooms) in ROOMS {
        for (path, text) in sources(folder) {
            let module = module(folder, &path);
            let allowed =
                rooms.iter().any(|room| module == *room || module.starts_with(&format!("{room}::")));
            let is_type = name.starts_with(char::is_uppercase);
            let path_of = |word: &str| is_type && word == name || word.starts_with(&format!("{name}::"));
            let names =
                code(&text).split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').any(path_of);
            assert!(!names || allowed, "{} names {name}", path.display());
        }
    }
    for (path, text) in sources("relay/src") {
        let knows = text.to_lowercase().contains("coupon");
        assert!(!knows, "{}: the relay knows nothing of coupons", path.display());
    }
}

/// Where statements on the table `coupons` stand: in its store. The audit compares it, and `issue_batch_2()` writes it.
#[test]
fn coupons_have_one_store() {
    let of_table = |pair: &[&str]| {
        let [keyword, table] =
            [pair[0], pair[1]].map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
        ["FROM", "INTO", "JOIN", "UPDATE"].contains(&keyword) && table == "coupons"
    };
    for (path, text) in sources("src") {
        let module = module("src", &path);
        let code = code(&text);
        let words: Vec<&str> = code.split_whitespace().collect();
        let allowed = ["coupon::store", "coupon::changing"].contains(&&*module) || top(&module) == "audit";
        assert!(allowed || !words.windows(2).any(of_table), "{} has a statement on coupons", path.display());
    }
}

/// Without comments and documentation.
fn code(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
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
    assert_tests_exist(&fs::read_to_string(crate_folder().join("relay/README.md")).unwrap());
}

/// There are the tests that a text names.
pub(crate) fn assert_tests_exist(text: &str) {
    let named = named_tests(text);
    assert!(named.len() > 50, "{named:?}");
    for test in named {
        let (modules, name) = test.rsplit_once("::").unwrap();
        let path = crate_folder().join("tests/it").join(modules.replace("::", "/"));
        let source = [path.with_extension("rs"), path.join("mod.rs")].into_iter().find(|file| file.is_file());
        let source = source.unwrap_or_else(|| panic!("there is no module of {test}"));
        let source = fs::read_to_string(source).unwrap();
        // Of its own, or one for each kind of server.
        let proofs =
            [format!("test]\nfn {name}()"), format!("test]\nasync fn {name}()"), format!("\n    {name}\n")];
        assert!(proofs.iter().any(|proof| source.contains(proof)), "there is no test {test}");
    }
}
