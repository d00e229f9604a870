//! Words and turns that made sentences hard to read: what a reader sees has none of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::{crate_folder, sources};
use crate::docs::with_readmes;

/// In small letters. A person is "a user" or "they"; what happens again is "retried", "recreated", "read again".
const WORDS: [&str; 6] = ["whoever", "he", "his", "him", "anew", "befall"];
const TURNS: [&str; 3] = ["made again", "so many", "so often"];

/// Source, documents, scripts and functions of SQL, each with its path.
fn texts() -> Vec<(String, String)> {
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in ["lua", "src", "relay/src"].map(|folder| crate_folder().join(folder)) {
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path
                    .extension()
                    .is_some_and(|ending| ["rs", "lua", "sql"].iter().any(|e| ending == *e))
                {
                    files.push(path);
                }
            }
        }
    }
    let of_files =
        files.into_iter().map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap()));
    of_files.chain(with_readmes()).collect()
}

#[test]
fn what_is_read_says_who_does_what() {
    let mut found = Vec::new();
    for (path, text) in texts() {
        for (number, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.any(|word| WORDS.contains(&word)) || TURNS.iter().any(|turn| line.contains(turn)) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A comment such as "Of a temporary folder." leaves the noun to the reader.
#[test]
fn documentation_begins_with_its_noun() {
    for folder in ["src", "relay/src"] {
        for (path, text) in sources(folder) {
            let mut before = "";
            for line in text.lines().map(str::trim) {
                let begins =
                    !before.starts_with("///") && line.starts_with("/// Of ") || line.starts_with("//! Of ");
                assert!(!begins, "{}: {line}", path.display());
                before = line;
            }
        }
    }
}

/// A search for a limit finds the one that is meant.
#[test]
fn the_name_of_a_timeout_has_one_value() {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    for (path, text) in ["src", "relay/src"].into_iter().flat_map(sources) {
        for line in text.lines().map(str::trim) {
            let Some((_, definition)) = line.split_once("const ") else { continue };
            let Some((name, value)) =
                definition.split_once(": ").filter(|(name, _)| name.ends_with("_TIMEOUT"))
            else {
                continue;
            };
            let before = values.insert(name.to_owned(), value.to_owned());
            assert!(
                before.is_none_or(|before| before == value),
                "{}: {name} has another value",
                path.display()
            );
        }
    }
    assert!(values.len() > 20, "{values:?}");
}
