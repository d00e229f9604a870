//! Every fault that is known has a test that lets it happen.

use std::fs;
use std::path::Path;

use crate::support::fault::{ROWS, Row, Tier, owns};
use crate::tidy::{assert_tests_exist, sources};

/// As docs/guarantees.md numbers them.
const PROMISES: [&str; 11] = ["P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "P10", "S"];

#[test]
fn every_fault_has_an_owner() {
    let sources = sources("tests");
    for row in ROWS.values() {
        let owned = sources.iter().any(|(_, text)| text.contains(&format!("\"{}\"", row.id)));
        assert!(owned, "no test owns {}", row.id);
        let told = [&row.hop, &row.fault, &row.effect, &row.injected].iter().all(|text| !text.is_empty());
        assert!(told && !row.promises.is_empty(), "{row:?}");
        assert!(row.promises.iter().all(|promise| PROMISES.contains(&promise.as_str())), "{row:?}");
    }
    assert!(ROWS.values().filter(|row| row.tier == Tier::Test).count() > 50);
}

#[test]
fn the_guarantees_tell_every_fault() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(folder.join("docs/guarantees.md")).unwrap();
    for Row { id, fault, effect, .. } in ROWS.values() {
        let told = text.lines().any(|line| line.starts_with(&format!("| {fault} | {effect} |")));
        assert!(told, "docs/guarantees.md does not tell of {id}");
    }
    assert_tests_exist(&text);
}

#[test]
#[should_panic(expected = "did not happen")]
fn a_fault_that_does_not_happen_is_no_test() {
    drop(owns("redis-killed"));
}

#[test]
#[should_panic(expected = "has no moon-falls")]
fn a_test_owns_only_what_is_known() {
    drop(owns("moon-falls"));
}
