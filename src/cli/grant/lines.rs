//! Lines of a file of any size. At most one line is in memory, and of a long one no more than its beginning.

use std::io::{self, BufRead, Read as _};

/// Bytes of a line or of a record in CSV, at most.
pub(super) const RECORD_BYTES_MAX: usize = 64 * 1024;
/// What some programs write before the first line of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line without its end.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
    /// It is longer than [`RECORD_BYTES_MAX`], and `bytes` has only its beginning.
    pub(super) is_too_long: bool,
}

impl Line {
    /// Whether nothing but white space is in it.
    pub(super) fn is_blank(&self) -> bool {
        self.bytes.trim_ascii().is_empty()
    }
}

/// Reads one line after the other.
pub(super) struct Lines {
    input: Box<dyn BufRead + Send>,
    read: u64,
}

impl Lines {
    pub(super) fn of(input: Box<dyn BufRead + Send>) -> Self {
        Self { input, read: 0 }
    }

    /// The first byte of the input that is no white space, if one is in what was read first.
    ///
    /// # Errors
    /// When the input cannot be read.
    pub(super) fn first_byte(&mut self) -> io::Result<Option<u8>> {
        let begin = self.input.fill_buf()?;
        let begin = begin.strip_prefix(BYTE_ORDER_MARK).unwrap_or(begin);
        Ok(begin.trim_ascii_start().first().copied())
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When the input cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut bytes = Vec::new();
        let limit = (BYTE_ORDER_MARK.len() + RECORD_BYTES_MAX + b"\r\n".len()) as u64;
        if (&mut self.input).take(limit).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        self.read += 1;
        if self.read == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        if bytes.pop_if(|byte| *byte == b'\n').is_none() {
            self.input.skip_until(b'\n')?;
        }
        bytes.pop_if(|byte| *byte == b'\r');
        let is_too_long = bytes.len() > RECORD_BYTES_MAX;
        bytes.truncate(RECORD_BYTES_MAX);
        Ok(Some(Line { number: self.read, bytes, is_too_long }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_any_length_is_one_line() -> io::Result<()> {
        let whole = "x".repeat(RECORD_BYTES_MAX);
        let text = format!("\u{feff}{whole}\r\n{whole}y\r\n{whole}{whole}{whole}\n\nlast");
        let mut lines = Lines::of(Box::new(io::Cursor::new(text)));
        assert_eq!(lines.first_byte()?, Some(b'x'));
        let mut read = Vec::new();
        while let Some(line) = lines.next()? {
            read.push((line.number, line.bytes.len(), line.is_too_long, line.is_blank()));
        }
        let most = RECORD_BYTES_MAX;
        let expected =
            [(1, most, false, false), (2, most, true, false), (3, most, true, false), (4, 0, false, true)];
        assert_eq!(read[..4], expected);
        assert_eq!(read[4..], [(5, 4, false, false)]);
        Ok(())
    }
}
