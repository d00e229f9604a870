//! The command line: what it asks, what it prints, and how it reaches the API.

mod access;
mod assets;
mod create;
mod find;
mod questions;
mod shape;
mod status;

use serde_json::Value;

use crate::support::Finished;

/// Ended with this code, and said this on standard error.
fn assert_ended(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    for word in words {
        assert!(finished.err.contains(word), "{word}: {finished:?}");
    }
}

/// One line of JSON, of a command that did what it should.
fn json_of(finished: &Finished) -> Value {
    assert_eq!((finished.code, finished.out.lines().count()), (Some(0), 1), "{finished:?}");
    serde_json::from_str(&finished.out).unwrap()
}
