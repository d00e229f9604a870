//! The results file: a line of CSV for each line that has a result, in the order of the users.
//!
//! A result is written whole, as one line, before the next one. After a crash the file ends with a whole line, or with one
//! that is cut off, which a resumed grant removes.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use csv::{StringRecord, WriterBuilder};

use super::claim::{Outcome, Run};
use super::input::{Entry, Users};
use super::records::fields;
use crate::ids::CampaignId;

const HEADER: &str = "line,user_id,outcome,coupon_id,reason,idempotency_key\n";
/// Fields of a result, by their place in the header.
const LINE: usize = 0;
const USER: usize = 1;
const OUTCOME: usize = 2;
const KEY: usize = 5;
/// Characters of a reason that are kept.
const REASON_CHARACTERS_MAX: usize = 200;
/// Bytes of a usual result.
const LINE_BYTES: usize = 256;
/// Bytes of a result, at most: more than its fields can have together.
const RESULT_BYTES_MAX: u64 = 8 * 1024;

/// The file, open at its end. Nobody else may write it meanwhile.
#[derive(Debug)]
pub(super) struct Results {
    file: File,
    /// As it was given.
    path: PathBuf,
    run: Run,
    lines: u64,
    outcomes: BTreeMap<String, u64>,
}

impl Results {
    /// A new file, or one that is there if it is resumed.
    ///
    /// # Errors
    /// Says why there is none, and what to do.
    pub(super) fn open(
        path: &Path,
        is_resumed: bool,
        campaign: CampaignId,
        run: Option<&str>,
    ) -> Result<Self, String> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(!is_resumed);
        let shown = path.display();
        let file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => format!(
                "{shown} is there already: add --resume to go on behind its last result, or name another file with --results"
            ),
            io::ErrorKind::NotFound if is_resumed => {
                format!("there is no {shown} to go on with: leave out --resume to begin")
            }
            _ => format!("cannot write results to {shown}: {error}"),
        })?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                format!(
                    "another grant is writing {shown}: wait for its end, or name another file with --results"
                )
            }
            TryLockError::Error(error) => format!("cannot lock {shown}: {error}"),
        })?;
        let whole = fs::canonicalize(path).map_err(|error| format!("cannot find {shown}: {error}"))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            run: Run::of(campaign, run, &whole),
            lines: 0,
            outcomes: BTreeMap::new(),
        })
    }

    /// Goes to where results are missing: behind the last whole line. The users of the lines before are taken.
    ///
    /// # Errors
    /// Says why the file cannot be gone on with: it is no results file, or of another grant.
    pub(super) async fn catch_up(&mut self, users: &mut Users) -> Result<(), String> {
        let shown = self.path.display().to_string();
        let problem = |error: io::Error| format!("cannot go on with {shown}: {error}");
        let mut file = self.file.try_clone().map_err(problem)?;
        let mut reader = BufReader::new(&file);
        let mut end = 0;
        while let Some(line) = next_line(&mut reader).map_err(problem)? {
            let is_header = end == 0 && line == HEADER.as_bytes();
            let may_be_cut =
                (end > 0 || HEADER.as_bytes().starts_with(&line)) && (line.len() as u64) < RESULT_BYTES_MAX;
            if may_be_cut && !line.ends_with(b"\n") {
                break;
            }
            if is_header {
                end = line.len() as u64;
                continue;
            }
            let result = fields(&line).ok().filter(|fields| end > 0 && fields.len() > KEY);
            let result = result.ok_or_else(|| format!("{shown} is not a results file of coupon grant"))?;
            self.compare(&result, users).await?;
            self.count(&result[OUTCOME]);
            end += line.len() as u64;
        }
        file.set_len(end).map_err(problem)?;
        file.seek(SeekFrom::Start(end)).map_err(problem)?;
        if end == 0 { file.write_all(HEADER.as_bytes()).map_err(problem) } else { Ok(()) }
    }

    /// Takes the user of a result, which must be the same as when the result was written.
    async fn compare(&self, result: &StringRecord, users: &mut Users) -> Result<(), String> {
        let shown = self.path.display();
        let line = &result[LINE];
        let entry = users.next().await.transpose();
        let entry = entry.map_err(|error| format!("cannot read the users: {error}"))?;
        let entry = entry.ok_or_else(|| {
            format!("{shown} has a result for line {line}, and the users end before: give the users that the grant began with")
        })?;
        if line != entry.line.to_string() || result[USER] != *entry.user_id() {
            return Err(format!(
                "line {} of the users is not the one that {shown} has a result for: give the users that the grant began with, \
                 unchanged",
                entry.line
            ));
        }
        if result[KEY] != self.run.key(entry.line) {
            return Err(format!(
                "{shown} has the results of another run: give the --campaign, the --run and the --results that it began with"
            ));
        }
        Ok(())
    }

    /// Writes the result of the next line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&mut self, entry: &Entry, outcome: &Outcome) -> io::Result<()> {
        let reason = outcome.reason.chars().take(REASON_CHARACTERS_MAX);
        let reason: String = reason.map(|c| if c.is_control() { ' ' } else { c }).collect();
        let (line, key) = (entry.line.to_string(), self.run.key(entry.line));
        let fields = [&*line, entry.user_id(), &outcome.slug, &outcome.coupon, &reason, &key];
        // Without a buffer that could be written in part, and then again.
        let mut writer =
            WriterBuilder::new().buffer_capacity(LINE_BYTES).from_writer(Vec::with_capacity(LINE_BYTES));
        writer.write_record(fields)?;
        let line = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
        self.file.write_all(&line)?;
        self.count(&outcome.slug);
        Ok(())
    }

    /// Waits until the file is on disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn count(&mut self, outcome: &str) {
        self.lines += 1;
        match self.outcomes.get_mut(outcome) {
            Some(count) => *count += 1,
            None => {
                self.outcomes.insert(outcome.to_owned(), 1);
            }
        }
    }

    /// The run that the results are of.
    pub(super) fn run(&self) -> &Run {
        &self.run
    }

    /// Lines that have a result.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// How many lines had each outcome.
    pub(super) fn outcomes(&self) -> &BTreeMap<String, u64> {
        &self.outcomes
    }

    /// What an operator does after the command has ended early.
    pub(super) fn how_to_go_on(&self) -> String {
        format!(
            "{} lines have a result in {}, and the same command with --resume goes on behind them",
            self.lines,
            self.path.display()
        )
    }
}

/// The next line with its end, or no more of it than a result can have.
fn next_line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let count = reader.take(RESULT_BYTES_MAX).read_until(b'\n', &mut line)?;
    Ok((count > 0).then_some(line))
}
