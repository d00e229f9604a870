//! The progress bar of commands that take long.

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// A bar of `length` steps on standard error; invisible when that is no terminal.
#[must_use]
pub fn progress_bar(length: i64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {rate} {eta} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            let _ = write!(text, "{:.0}/s", state.per_sec()); // a rate that cannot be drawn is left out
        });
    ProgressBar::new(length.unsigned_abs()).with_style(style)
}
