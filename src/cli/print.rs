//! What a command prints on standard output: tables for people, or JSON in one shape.
//!
//! With `--json` a command prints one line. A thing is an object, the API's own where the API has it. A list is
//! `{"items": […], "next": …}`, where `next` is the cursor of the next page, or null.

use std::fmt::Display;
use std::io::{self, Write as _};

use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};

use crate::audit::Sheet;

/// How a command prints its result.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Output {
    /// Print the result as one line of JSON. A list is `{"items": […], "next": …}`.
    #[arg(long)]
    pub(super) json: bool,
}

impl Output {
    /// Prints a thing. For people, a line for each of its fields: the `first` ones, then the others.
    pub(super) fn object(self, thing: &impl Serialize, first: &[&str]) -> anyhow::Result<()> {
        let thing = serde_json::to_value(thing)?;
        if self.json {
            return line(&thing);
        }
        Ok(say(fields(&thing, first))?)
    }

    /// Prints a list. For people, a table of these fields of the items.
    pub(super) fn list(self, items: &impl Serialize, next: &Value, columns: &[&str]) -> anyhow::Result<()> {
        let items = serde_json::to_value(items)?;
        if self.json {
            return line(&json!({ "items": items, "next": next }));
        }
        say(table(items.as_array().map_or(&[], Vec::as_slice), columns))?;
        if let Some(cursor) = next.as_str() {
            writeln!(io::stderr(), "More may follow: --cursor {cursor}")?;
        }
        Ok(())
    }

    /// Prints what a command would change: the thing as it is.
    pub(super) fn dry_run(self, thing: &impl Serialize, first: &[&str]) -> anyhow::Result<()> {
        let mut thing = serde_json::to_value(thing)?;
        if self.json {
            thing["dry_run"] = true.into();
            return line(&thing);
        }
        say(fields(&thing, first))?;
        Ok(say("dry run: nothing is changed")?)
    }

    /// Prints a result that has a text of its own for people.
    pub(super) fn result(self, value: &impl Serialize, text: impl Display) -> anyhow::Result<()> {
        if self.json { line(value) } else { Ok(say(text)?) }
    }

    /// Prints a balance sheet.
    pub(super) fn sheet(self, sheet: &Sheet) -> anyhow::Result<()> {
        self.result(&json!({ "balanced": sheet.is_balanced(), "sheet": sheet }), sheet)
    }
}

/// Prints a line. Unlike `println!` it does not panic when nobody reads on, as in `coupon audit | head`.
pub(super) fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// Prints one line of JSON.
fn line(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(say(serde_json::to_string(value)?)?)
}

/// A table of these fields of objects, under their names. Numbers stand at the right.
pub(super) fn table(items: &[Value], columns: &[&str]) -> String {
    let mut table = plain_table();
    table.set_header(columns.iter().map(|column| column.replace('_', " ").to_uppercase()));
    for item in items {
        table.add_row(columns.iter().map(|column| text(&item[column])));
    }
    for (column, name) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        if items.iter().any(|item| item[name].is_number()) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// A line for each field of an object: the `first` ones, then the others.
fn fields(thing: &Value, first: &[&str]) -> String {
    let members = thing.as_object();
    let others = members.into_iter().flatten().map(|(name, _)| name.as_str());
    let others = others.filter(|name| !first.contains(name));
    let mut table = plain_table();
    for name in first.iter().copied().filter(|name| thing.get(name).is_some()).chain(others) {
        table.add_row([name, &text(&thing[name])]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Without lines, and as wide as its cells: a row is a line for `grep` and `cut`.
fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// A value as a text for people. It does nothing to a terminal, whatever a caller has put into it.
pub(super) fn text(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_a_row_is_a_line() {
        let items = [
            json!({ "id": "a", "left": 7, "scopes": ["x", "y"], "end": null }),
            json!({ "id": "a\u{1b}[2J\nb", "left": 1_000, "scopes": [], "end": "now" }),
        ];
        let expected = "ID       LEFT  SCOPES  END\n\
                        a           7  x,y     -\n\
                        a [2J b  1000          now";
        assert_eq!(table(&items, &["id", "left", "scopes", "end"]), expected);
        assert_eq!(table(&[], &["id", "left"]), "ID  LEFT");
    }

    #[test]
    fn a_thing_has_its_first_fields_first_and_all_others_behind() {
        let thing = json!({ "a": 1, "state": "open", "id": "x" });
        assert_eq!(fields(&thing, &["id", "state", "missing"]), "id     x\nstate  open\na      1");
    }
}
