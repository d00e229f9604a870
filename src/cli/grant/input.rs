//! The users of a grant, from a file or from standard input, one after the other.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::thread;

use clap::ValueEnum;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::lines::{Line, Lines, RECORD_BYTES_MAX};
use super::records::Records;
use crate::ids::UserId;

/// Entries that are read ahead.
const QUEUE: usize = 256;
/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// How a file names its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A header with a column `user_id`, and a line for each user.
    Csv,
    /// An object of JSON with a member `user_id` on each line.
    Jsonl,
}

impl Format {
    /// The one that the ending of a name tells.
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

/// A line that stands for a user.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its number, from 1. A header counts.
    pub(super) line: u64,
    /// The user, or why the line names none.
    pub(super) user: Result<UserId, String>,
}

impl Entry {
    /// The user's id; empty if the line names none.
    pub(super) fn user_id(&self) -> &str {
        self.user.as_ref().map_or("", UserId::as_str)
    }
}

/// Reads users on a thread of its own, because a terminal or a pipe may keep a reader waiting.
#[derive(Debug)]
pub(super) struct Users {
    entries: mpsc::Receiver<io::Result<Entry>>,
}

impl Users {
    /// Opens the input, and reads a header if it has one.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub(super) fn open(path: &Path, format: Option<Format>) -> Result<Self, String> {
        let problem = |what: &dyn Display| format!("cannot read users from {}: {what}", name(path));
        let opened = open(path).and_then(|input| {
            let mut lines = Lines::of(input);
            let first = lines.first_byte()?;
            Ok((lines, first))
        });
        let (lines, first) = opened.map_err(|error| problem(&error))?;
        let told = format.or_else(|| Format::of(path));
        let told = told.unwrap_or(if first == Some(b'{') { Format::Jsonl } else { Format::Csv });
        let mut source = match told {
            Format::Csv => Source::Csv(Records::begin(lines).map_err(|what| problem(&what))?),
            Format::Jsonl => Source::Jsonl(lines),
        };
        let (sender, entries) = mpsc::channel(QUEUE);
        let reading = thread::Builder::new().name("users".to_owned()).spawn(move || {
            while let Some(entry) = source.next().transpose() {
                let is_last = entry.is_err();
                // Nobody receives when the command ends early.
                if sender.blocking_send(entry).is_err() || is_last {
                    return;
                }
            }
        });
        reading.map_err(|error| problem(&error))?;
        Ok(Self { entries })
    }

    /// The next line that stands for a user; `None` at the end.
    ///
    /// # Errors
    /// When the input cannot be read.
    pub(super) async fn next(&mut self) -> Option<io::Result<Entry>> {
        self.entries.recv().await
    }
}

/// How messages name the input.
pub(super) fn name(path: &Path) -> String {
    if is_standard_input(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// The lines of a file; `None` of anything else, which can be read only once.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn count_lines(path: &Path) -> io::Result<Option<u64>> {
    if is_standard_input(path) || !path.metadata()?.is_file() {
        return Ok(None);
    }
    let mut input = open(path)?;
    let mut lines = 0;
    while input.skip_until(b'\n')? > 0 {
        lines += 1;
    }
    Ok(Some(lines))
}

fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    if is_standard_input(path) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, io::stdin())));
    }
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, File::open(path)?)))
}

enum Source {
    Csv(Records),
    Jsonl(Lines),
}

impl Source {
    fn next(&mut self) -> io::Result<Option<Entry>> {
        let read = match self {
            Self::Csv(records) => records.next()?,
            Self::Jsonl(lines) => next_object(lines)?,
        };
        Ok(read.map(|(line, user)| {
            let parsed = user
                .and_then(|user| UserId::parse(user).map_err(|error| format!("has a user_id that {error}")));
            Entry { line, user: parsed }
        }))
    }
}

/// The next object of JSON Lines: the number of its line, and its user, or why it has none.
fn next_object(lines: &mut Lines) -> io::Result<Option<(u64, Result<String, String>)>> {
    while let Some(line) = lines.next()? {
        if !line.is_blank() {
            return Ok(Some((line.number, user_of(&line))));
        }
    }
    Ok(None)
}

/// An object, of which one member is read.
#[derive(Deserialize)]
struct Object {
    user_id: String,
}

fn user_of(line: &Line) -> Result<String, String> {
    if line.is_too_long {
        return Err(format!("is longer than {RECORD_BYTES_MAX} bytes"));
    }
    let text = std::str::from_utf8(&line.bytes).map_err(|_| "is not UTF-8".to_owned())?;
    if !text.trim_start().starts_with('{') {
        return Err("is not an object of JSON".to_owned());
    }
    let read = serde_json::from_str::<Object>(text);
    read.map(|object| object.user_id).map_err(|error| {
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or_default();
        if error.is_data() { format!("has no user_id: {what}") } else { format!("is not JSON: {what}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_json_has_a_user_or_a_reason() -> io::Result<()> {
        let text = "{\"user_id\":\"alice\",\"n\":[1]}\n\n [\"bob\"]\n{\"user_id\":7}\n{\"user\":\"x\"}\n\
                    {\"user_id\":\"a\",\"user_id\":\"b\"}\n{\"user_id\":\n{\"user_id\":\"two words\"}\r\n{\"user_id\":\"bob\"}";
        let mut source = Source::Jsonl(Lines::of(Box::new(io::Cursor::new(text))));
        let expected: [(u64, Result<&str, &str>); 8] = [
            (1, Ok("alice")),
            (3, Err("is not an object of JSON")),
            (4, Err("has no user_id: invalid type: integer `7`, expected a string")),
            (5, Err("has no user_id: missing field `user_id`")),
            (6, Err("has no user_id: duplicate field `user_id`")),
            (7, Err("is not JSON: EOF while parsing a value")),
            (8, Err("has a user_id that must be 1 to 64 visible ASCII characters, and neither . nor ..")),
            (9, Ok("bob")),
        ];
        for (number, user) in expected {
            let entry = source.next()?;
            let read = entry.as_ref().map(|entry| (entry.line, entry.user.as_ref().map(UserId::as_str)));
            assert_eq!(read, Some((number, user.map_err(str::to_owned).as_ref().copied())));
        }
        assert!(source.next()?.is_none());
        Ok(())
    }

    #[test]
    fn the_ending_of_a_name_tells_the_format() {
        let of = |name: &str| Format::of(Path::new(name));
        assert_eq!(
            (of("a.csv"), of("b/a.NDJSON"), of("a.jsonl")),
            (Some(Format::Csv), Some(Format::Jsonl), Some(Format::Jsonl))
        );
        assert_eq!((of("-"), of("a.txt"), of("csv")), (None, None, None));
    }
}
