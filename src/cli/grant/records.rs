//! CSV as RFC 4180 has it: a header, records with as many fields, quotes around whole fields.
//!
//! The crate `csv` splits a record. It accepts quotes that are never closed, and would read the rest of the file as one
//! field. So a record is delimited here first: a broken line costs one record, and those behind it are read.

use std::collections::VecDeque;
use std::io;

use csv::{ReaderBuilder, StringRecord};

use super::lines::{Line, Lines, RECORD_BYTES_MAX};

/// The column that is read.
const COLUMN: &str = "user_id";
/// Lines behind a first one that a record goes on in, at most.
const MORE_LINES_MAX: usize = 32;

/// Reads the column `user_id` of one record after the other.
pub(super) struct Records {
    lines: Lines,
    /// Lines that were read to find the end of a record.
    ahead: VecDeque<Line>,
    columns: usize,
    column: usize,
}

/// How the quotes of a record are.
#[derive(Debug, PartialEq, Eq)]
enum Quotes {
    Closed,
    /// One is open: the record may go on in the next line.
    Open,
    /// One stands inside a field without quotes, or a field goes on behind its quotes.
    Wrong,
}

impl Records {
    /// Reads the header.
    ///
    /// # Errors
    /// Says what is wrong with the header.
    pub(super) fn begin(lines: Lines) -> Result<Self, String> {
        let mut records = Self { lines, ahead: VecDeque::new(), columns: 0, column: 0 };
        let header = records.record().map_err(|error| error.to_string())?;
        let (_, header) =
            header.ok_or("it is empty: the first line must be a header with the column user_id")?;
        let header = header.map_err(|problem| format!("its header {problem}"))?;
        let mut found = header.iter().enumerate().filter(|(_, name)| name.trim() == COLUMN);
        match (found.next(), found.next()) {
            (Some((column, _)), None) => Ok(Self { columns: header.len(), column, ..records }),
            (Some(_), Some(_)) => Err("its header has two columns user_id: leave one".to_owned()),
            (None, _) => Err(
                "its header, the first line, has no column user_id: name the column so, and separate columns by commas"
                    .to_owned(),
            ),
        }
    }

    /// The number of the next record's first line, and its user, or why it has none; `None` at the end.
    ///
    /// # Errors
    /// When the input cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Result<String, String>)>> {
        Ok(self.record()?.map(|(number, record)| {
            let user = record.map(|record| record.get(self.column).unwrap_or_default().to_owned());
            (number, user)
        }))
    }

    fn record(&mut self) -> io::Result<Option<(u64, Result<StringRecord, String>)>> {
        while let Some(line) = self.take()? {
            if line.is_blank() {
                continue;
            }
            let record = match quotes(&line.bytes) {
                _ if line.is_too_long => Err(format!("is longer than {RECORD_BYTES_MAX} bytes")),
                Quotes::Closed => self.split(&line.bytes),
                Quotes::Open => self.joined(&line.bytes)?,
                Quotes::Wrong => Err("has a quote or a carriage return where CSV allows none".to_owned()),
            };
            return Ok(Some((line.number, record)));
        }
        Ok(None)
    }

    /// A record that goes on in further lines. They are left for records of their own if no record ends in them.
    fn joined(&mut self, first: &[u8]) -> io::Result<Result<StringRecord, String>> {
        let mut bytes = first.to_vec();
        for more in 0..MORE_LINES_MAX {
            if self.ahead.len() == more {
                self.ahead.extend(self.lines.next()?);
            }
            let Some(line) = self.ahead.get(more) else { break };
            if bytes.len() + line.bytes.len() >= RECORD_BYTES_MAX {
                break;
            }
            bytes.push(b'\n');
            bytes.extend_from_slice(&line.bytes);
            match quotes(&bytes) {
                Quotes::Open => {}
                Quotes::Wrong => break,
                Quotes::Closed => {
                    let record = self.split(&bytes);
                    if record.is_ok() {
                        self.ahead.drain(..=more);
                        return Ok(record);
                    }
                    break;
                }
            }
        }
        Ok(Err("has a quote that is not closed".to_owned()))
    }

    fn take(&mut self) -> io::Result<Option<Line>> {
        match self.ahead.pop_front() {
            Some(line) => Ok(Some(line)),
            None => self.lines.next(),
        }
    }

    /// The fields of a record, which must be those of the header.
    fn split(&self, record: &[u8]) -> Result<StringRecord, String> {
        let fields = fields(record)?;
        match (fields.len(), self.columns) {
            (count, columns) if columns > 0 && count != columns => {
                Err(format!("has {count} fields, and the header has {columns}"))
            }
            _ => Ok(fields),
        }
    }
}

/// The fields of one record.
///
/// # Errors
/// When it is not UTF-8.
pub(super) fn fields(record: &[u8]) -> Result<StringRecord, String> {
    let capacity = record.len().max(1);
    let mut reader =
        ReaderBuilder::new().has_headers(false).flexible(true).buffer_capacity(capacity).from_reader(record);
    let mut fields = StringRecord::new();
    reader.read_record(&mut fields).map_err(|_| "is not UTF-8".to_owned())?;
    Ok(fields)
}

fn quotes(record: &[u8]) -> Quotes {
    #[derive(Clone, Copy)]
    enum At {
        Begin,
        Bare,
        Quoted,
        /// Behind a quote in a quoted field: its end, or the first half of a quote that is doubled.
        Quote,
    }
    let mut at = At::Begin;
    for byte in record {
        at = match (at, byte) {
            (At::Begin | At::Quote, b'"') | (At::Quoted, 0..b'"' | b'#'..) => At::Quoted,
            (At::Quoted, b'"') => At::Quote,
            (At::Begin | At::Bare | At::Quote, b',') => At::Begin,
            (At::Begin | At::Bare, b'"' | b'\r') | (At::Quote, _) => return Quotes::Wrong,
            (At::Begin | At::Bare, _) => At::Bare,
        };
    }
    if matches!(at, At::Quoted) { Quotes::Open } else { Quotes::Closed }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = Vec<(u64, Result<String, String>)>;

    fn read(text: impl Into<Vec<u8>>) -> Result<Read, String> {
        let mut records = Records::begin(Lines::of(Box::new(io::Cursor::new(text.into()))))?;
        let mut read = Vec::new();
        while let Some(record) = records.next().map_err(|error| error.to_string())? {
            read.push(record);
        }
        Ok(read)
    }

    /// Each line with its user, or with a question mark if it has none.
    fn told(text: impl Into<Vec<u8>>) -> Result<String, String> {
        let lines = read(text)?.into_iter();
        let lines =
            lines.map(|(number, user)| format!("{number} {}", user.unwrap_or_else(|_| "?".to_owned())));
        Ok(lines.collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn the_column_is_found_and_quotes_are_removed() {
        let text = "\u{feff}name,\"user_id\",note\r\n\"A, B\",alice,\r\n\r\n\"say \"\"x\"\"\",\"bob\",\"a\nb,c\n\"\nC,carol,d";
        assert_eq!(told(text).as_deref(), Ok("2 alice, 4 bob, 7 carol"));
        assert_eq!(told("user_id\n\"\"\nx").as_deref(), Ok("2 , 3 x"));
        assert_eq!(told("user_id\n").as_deref(), Ok(""));
    }

    #[test]
    fn a_broken_line_is_one_record_and_the_others_are_read() {
        for (broken, lines) in [
            ("\"open,x", 1),
            ("open,\"x", 1),
            ("a\"b,x", 1),
            ("\"a\"b,x", 1),
            ("a,b,c", 1),
            ("a", 1),
            ("a\rb,x", 1),
            ("\"a,x\nb\"c,x", 2),
        ] {
            for behind in ["carol,x\ndave,y", "\"carol\",\"x\"\ndave,\"y\"\"\""] {
                let text = format!("user_id,note\nalice,\"1\"\n{broken}\n{behind}\n");
                let broken_lines: Vec<_> = (0..lines).map(|line| format!("{} ?", 3 + line)).collect();
                let (carol, dave) = (3 + lines, 4 + lines);
                let expected = format!("2 alice, {}, {carol} carol, {dave} dave", broken_lines.join(", "));
                assert_eq!(told(text).as_deref(), Ok(&*expected), "{broken}");
            }
        }
        let latin = b"user_id,note\na,\xe9\nb,x\n".to_vec();
        assert_eq!(told(latin).as_deref(), Ok("2 ?, 3 b"));
        let open = format!("user_id\n\"a{}", "\nb".repeat(100));
        assert_eq!(read(open).map(|read| read.iter().filter(|(_, user)| user.is_ok()).count()), Ok(100));
    }

    #[test]
    fn a_header_without_the_column_is_refused() {
        for (text, word) in [
            ("", "empty"),
            ("\n\n", "empty"),
            ("user\nx", "no column user_id"),
            ("user_id;name\nx;y", "no column user_id"),
            ("user_id,user_id\nx,y", "two columns"),
            ("\"user_id\nx,y", "not closed"),
        ] {
            assert!(read(text).is_err_and(|problem| problem.contains(word)), "{text:?}");
        }
    }
}
