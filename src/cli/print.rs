//! What a command prints on standard output.

use std::fmt::Display;
use std::io::{self, Write as _};

use serde::Serialize;
use serde_json::json;

use crate::audit::Sheet;

/// Prints a line. Unlike `println!` it does not panic when nobody reads on, as in `coupon audit | head`.
pub(super) fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// Prints a line for each item.
pub(super) fn lines<T: Display>(items: impl IntoIterator<Item = T>) -> io::Result<()> {
    items.into_iter().try_for_each(say)
}

/// Prints the result of a command that was given `--json`: one line of JSON.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(say(serde_json::to_string(value)?)?)
}

/// Prints a document that is JSON with or without `--json`, over several lines.
pub(super) fn document(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(say(serde_json::to_string_pretty(value)?)?)
}

/// Prints a balance sheet.
pub(super) fn sheet(sheet: &Sheet, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return json(&json!({ "balanced": sheet.is_balanced(), "sheet": sheet }));
    }
    Ok(say(sheet)?)
}
