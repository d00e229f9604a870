//! What a command shows: its bar meanwhile, and its lines.

use std::fmt::Display;
use std::io::{self, Write as _};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// A bar on standard error; nothing when that is no terminal.
#[must_use]
pub fn progress_bar(length: i64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {rate} {eta} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            let _ = write!(text, "{:.0}/s", state.per_sec()); // a bar that cannot be drawn matters to nobody
        });
    ProgressBar::new(length.unsigned_abs()).with_style(style)
}

/// Prints a line on standard output. Unlike `println!` it does not panic when nobody reads on, as in
/// `coupon audit | head`.
///
/// # Errors
/// When the line cannot be written.
pub fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
