//! Names in README.md and docs/ exist: tests, commands, options, variables, constants, functions, targets, files, links.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use coupon_dispatcher::config::{Config, VARIABLES, Variable};

use super::console::commands;
use super::spans::{anchors, first_column, has_word, links, section, spans};
use super::{ROOT, documents, read, with_readmes};
use crate::tidy::assert_tests_exist;

/// Where files lie that a document names without their folder.
const FOLDERS: [&str; 6] = [".", "src", "lua", "migrations", "examples/permissions", "examples/production"];
/// Variables that name the binaries of the private servers.
const OF_PRIVATE_SERVERS: [&str; 3] = ["POSTGRES", "REDIS_SERVER", "NATS_SERVER"];
/// Names of other programs.
const FOREIGN: [&str; 1] = ["max_ack_pending"];

/// Every file of the repository that is text of ours, but for the documents.
fn source() -> String {
    let mut text = String::new();
    let mut folders: Vec<PathBuf> = vec![ROOT.into()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if ![".git", "target", "docs"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if path.extension().is_none_or(|ending| ending != "md") {
                text += &fs::read_to_string(&path).unwrap_or_default();
            }
        }
    }
    text
}

#[test]
fn tests_exist() {
    let all: Vec<_> = documents().into_iter().map(|(_, text)| text).collect();
    assert_tests_exist(&all.join("\n"));
}

/// Constants and variables (`BATCH_ROWS`), functions and settings (`issue_batch`).
#[test]
fn variables_constants_and_functions_exist() {
    let (source, mut problems) = (source(), Vec::new());
    for (path, text) in with_readmes() {
        for span in spans(&text) {
            let name = span.trim_end_matches("()");
            let is_name = name.contains('_')
                && (name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
                    || name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
            // Of a metric, the source has its name without unit and type.
            let stem = name.trim_end_matches("_total").trim_end_matches("_seconds");
            let exists = has_word(&source, name) || has_word(&source, stem);
            if is_name && !exists && !FOREIGN.contains(&name) {
                problems.push(format!("{path}: there is no {name}"));
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn the_configuration_is_told_whole() {
    let text = read("docs/reference/configuration.md");
    let told: BTreeSet<_> = first_column(&text).into_iter().collect();
    let known = VARIABLES.map(|variable| variable.name.to_owned()).into_iter();
    let known: BTreeSet<_> = known.chain(OF_PRIVATE_SERVERS.map(str::to_owned)).collect();
    assert_eq!(told, known);
    let rows = VARIABLES.into_iter().filter_map(|Variable { name, default, .. }| Some((name, default?)));
    for (name, default) in rows {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{name}` | "))).unwrap();
        assert_eq!(row.split(" | ").nth(1).unwrap().trim_matches('`'), default, "{name}");
    }
}

/// The variables that `compose.yaml` sets itself, because it has the servers.
const SET_BY_COMPOSE: [&str; 4] = ["DATABASE_URL", "HTTP_ADDR", "NATS_URL", "REDIS_URL"];

/// The names that `.env.example` gives, or shows behind a `#`.
fn of_example() -> BTreeSet<String> {
    let example = read(".env.example");
    let names = example.lines().filter_map(|line| Some(line.trim_start_matches('#').split_once('=')?.0));
    let is_name = |name: &&str| name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    names.filter(is_name).map(str::to_owned).collect()
}

/// `compose.yaml` passes every variable to the service, and `.env.example` has each that it does not set itself.
#[test]
fn every_variable_can_be_set_for_containers() {
    let compose = read("compose.yaml");
    let block = compose.split("\n  environment:\n").nth(1).unwrap();
    let passed: BTreeMap<_, _> = block
        .lines()
        .map_while(|line| line.strip_prefix("    ")?.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let known: BTreeSet<_> = VARIABLES.map(|variable| variable.name.to_owned()).into();
    assert_eq!(passed.keys().cloned().collect::<BTreeSet<_>>(), known);
    let of_env =
        |(name, value): &(&String, &String)| value.is_empty() || value.contains(&format!("${{{name}"));
    let (given, own): (Vec<_>, Vec<_>) = passed.iter().partition(of_env);
    assert_eq!(own.into_iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), SET_BY_COMPOSE);
    let filled = compose.split("${").skip(1).map(|rest| rest.split([':', '}']).next().unwrap().to_owned());
    assert_eq!(of_example(), filled.chain(given.into_iter().map(|(name, _)| name.clone())).collect());
}

/// The token that everybody can read is refused.
#[test]
fn the_token_of_the_example_must_be_replaced() {
    let example = read(".env.example");
    let token = example.lines().find_map(|line| line.strip_prefix("ADMIN_TOKEN=")).unwrap();
    let read = Config::read(|name| match name {
        "ADMIN_TOKEN" => Some(token.to_owned()),
        "DATABASE_URL" => Some("postgres://db/coupon".to_owned()),
        "REDIS_URL" => Some("redis://cache".to_owned()),
        "NATS_URL" => Some("nats://bus".to_owned()),
        _ => None,
    });
    let problem = read.expect_err("the placeholder is accepted").to_string();
    assert!(problem.contains("ADMIN_TOKEN is the placeholder of .env.example"), "{problem}");
    assert!(!problem.contains(token), "{problem}");
}

/// What `coupon … --help` says: the options of each command, by its words.
pub(crate) fn helped() -> BTreeMap<Vec<String>, BTreeSet<String>> {
    let mut known = BTreeMap::new();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(words) = open.pop() {
        let output = Command::new(env!("CARGO_BIN_EXE_coupon")).args(&words).arg("--help").output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let below = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap_or("");
        let names = below.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        for name in names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
            open.push([words.clone(), vec![name.to_owned()]].concat());
        }
        let lines = help.lines().map(str::trim).filter(|line| line.starts_with('-'));
        let options = lines.filter_map(|line| Some(option(line.split_once("--")?.1)));
        known.insert(words, options.collect());
    }
    assert!(known.len() > 10, "{known:?}");
    known
}

/// The name at the beginning of what is behind two hyphens.
fn option(text: &str) -> String {
    let name = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().unwrap_or_default();
    format!("--{name}")
}

#[test]
fn commands_and_options_exist() {
    let known = helped();
    let of_examples = read("examples/subscriber.py");
    for (path, text) in documents() {
        let mut lines: Vec<_> = commands(&path, &text).into_iter().map(|command| command.line).collect();
        lines.extend(spans(&text));
        for line in lines {
            for call in line.split(['|', ';', '&', '`']) {
                let words: Vec<_> =
                    call.split_whitespace().skip_while(|word| *word != "coupon").skip(1).collect();
                let mut command: Vec<String> = Vec::new();
                for word in &words {
                    let longer = [command.clone(), vec![(*word).to_owned()]].concat();
                    command = if known.contains_key(&longer) { longer } else { command };
                }
                let first = words.first().copied().unwrap_or("--");
                let is_command = !command.is_empty() || first.starts_with(['-', '<', '…', '-']);
                assert!(is_command, "{path}: there is no command {line}");
                for word in words.iter().filter(|word| word.starts_with("--")) {
                    let exists = known[&command].contains(&option(&word[2..]));
                    assert!(exists, "{path}: {line} has no {word}");
                }
            }
            if let Some(name) = line.strip_prefix("--") {
                let name = option(name);
                let exists =
                    known.values().any(|options| options.contains(&name)) || of_examples.contains(&name);
                assert!(exists, "{path}: there is no option {name}");
            }
        }
    }
}

/// A command that waits for something gives up, so that nobody waits for ever where things are not as the page assumes.
#[test]
fn every_command_that_waits_ends() {
    for (path, text) in documents() {
        for command in commands(&path, &text) {
            let waits = command.line.contains("; do ") && !command.line.starts_with("for ");
            assert!(
                !waits || command.line.starts_with("timeout "),
                "{path}:{}: {}",
                command.number,
                command.line
            );
        }
    }
}

#[test]
fn every_command_and_option_is_told() {
    let text = read("docs/reference/commands.md");
    for (words, options) in helped().into_iter().filter(|(words, _)| !words.is_empty()) {
        assert!(text.contains(&format!("`coupon {}", words.join(" "))), "{words:?}");
        let spans = spans(section(&text, &format!("## `coupon {}`", words[0])));
        let told: BTreeSet<_> = spans.iter().filter_map(|span| span.strip_prefix("--")).map(option).collect();
        for option in options.iter().filter(|option| *option != "--help") {
            assert!(told.contains(option), "{words:?} {option}");
        }
    }
}

#[test]
fn targets_and_benches_exist() {
    let (makefile, manifest) = (read("Makefile"), read("Cargo.toml"));
    for (path, text) in documents() {
        let lines = commands(&path, &text).into_iter().map(|command| command.line).chain(spans(&text));
        for line in lines {
            let mut words = line.split_whitespace();
            if words.next() == Some("make")
                && let Some(target) = words.next()
            {
                assert!(makefile.contains(&format!("\n{target}:")), "{path}: {line}");
            }
            if let Some((_, bench)) = line.split_once("cargo bench --bench ") {
                assert!(
                    manifest.contains(&format!("\nname = \"{bench}\"\npath = \"tests/bench")),
                    "{path}: {line}"
                );
            }
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let mut problems = Vec::new();
    for (path, text) in with_readmes() {
        let folder = Path::new(ROOT).join(&path).parent().unwrap().to_owned();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { Path::new(ROOT).join(&path) } else { folder.join(file) };
            if !target.exists() {
                problems.push(format!("{path}: {link}"));
            }
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(&target).unwrap());
                if !anchors.iter().any(|known| known == anchor) {
                    problems.push(format!("{path}: {link}, of {anchors:?}"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn files_exist() {
    let mut problems = Vec::new();
    let endings = [".rs", ".sql", ".lua", ".toml", ".py", ".md", ".yaml", ".conf", ".acl", ".txt"];
    let of_readers = ["compose.override.yaml", "demo.txt", "friday.json", "redis.conf"];
    for (path, text) in documents() {
        for span in spans(&text) {
            let is_path = !span.contains([' ', '<', '{', '*', '$', ':', '…'])
                && !span.starts_with(|first: char| first == '/' || first.is_ascii_digit())
                && (endings.iter().any(|ending| span.ends_with(ending)) || span.contains('/'))
                && !of_readers.contains(&span.as_str());
            if !is_path || span.starts_with("application/") || span.starts_with("target/") {
                continue;
            }
            // `issue/mod` is the module, too.
            let names = [span.clone(), format!("{span}.rs")];
            let exists = FOLDERS
                .iter()
                .any(|folder| names.iter().any(|name| Path::new(ROOT).join(folder).join(name).exists()));
            if !exists {
                problems.push(format!("{path}: {span}"));
            }
        }
    }
    assert!(problems.is_empty(), "there is no such file: {problems:#?}");
}
