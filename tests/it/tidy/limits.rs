//! Every wait for Postgres has a limit: see `outbox_relay::in_time`.

use super::{code, crate_folder, sources};

/// What waits for Postgres, up to its parenthesis.
const WAITS: [&str; 7] =
    [".execute(", ".fetch_one(", ".fetch_optional(", ".fetch_all(", ".begin()", ".commit()", ".ping()"];
/// What limits it.
const LIMITS: [&str; 4] = ["in_time()", "within(", "timeout(", "prepared!("];
/// Files without limits of their own, and where the limit is.
const ELSEWHERE: [(&str, &str); 10] = [
    ("relay/src/replay/selection.rs", "the callers of `rows` limit it: a plan may take longer than a batch"),
    ("relay/src/schema.rs", "a migration takes as long as it takes; an operator watches it"),
    ("src/issue/work.rs", "writer/lane.rs limits each batch"),
    ("src/lifecycle/work.rs", "writer/lane.rs limits each batch"),
    ("src/writer/worker.rs", "each call is inside timeout(WRITER_TIMEOUT, …)"),
    ("src/wallet.rs", "relay/src/feed.rs limits Projection::apply"),
    ("src/settlement.rs", "relay/src/feed.rs limits Projection::apply"),
    ("src/doctor/postgres.rs", "doctor/mod.rs limits all checks of a server"),
    ("src/rush.rs", "for demo, tests and benches: HTTP alone"),
    ("src/servers/server.rs", "for demo, tests and benches"),
];

#[test]
fn every_wait_for_postgres_has_a_limit() {
    let mut unlimited = Vec::new();
    for folder in ["src", "relay/src"] {
        for (path, text) in sources(folder) {
            let path = path.strip_prefix(crate_folder()).unwrap().to_str().unwrap().to_owned();
            if ELSEWHERE.iter().any(|(file, _)| *file == path) {
                continue;
            }
            let text = code(&text);
            let (text, _) = text.split_once("#[cfg(test)]\nmod tests").unwrap_or((&text, ""));
            for wait in WAITS {
                for (at, _) in text.match_indices(wait) {
                    let rest = &text[at..];
                    let statement = &rest[..rest.find(".await").map_or(rest.len(), |end| end + 1)];
                    let before: String = text[..at].chars().rev().take(120).collect();
                    let before: String = before.chars().rev().collect();
                    let limited =
                        LIMITS.iter().any(|limit| statement.contains(limit) || before.contains(limit));
                    if !limited {
                        let line = text[..at].matches('\n').count() + 1;
                        unlimited.push(format!("{path}, line {line} without comments: {}", statement.trim()));
                    }
                }
            }
        }
    }
    assert!(unlimited.is_empty(), "no limit:\n{}", unlimited.join("\n"));
}
