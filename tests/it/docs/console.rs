//! The commands in the blocks `console` of a document, with what is shown of their output.

use super::SETUP;

/// Before a block: numbers in it that differ from run to run.
const VARIES: &str = "<!-- varies:";

/// A line that begins with `$ `, and what is shown below it.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) path: String,
    /// Of the line, from 1.
    pub(super) number: usize,
    pub(super) line: String,
    pub(super) shown: Vec<String>,
    /// Numbers that differ from run to run.
    pub(super) varying: Vec<String>,
    pub(super) is_setup: bool,
}

impl Command {
    /// Whether Ctrl-C is shown, as `^C` before what the command prints afterwards.
    pub(super) fn is_interrupted(&self) -> bool {
        self.shown.iter().any(|line| line.starts_with("^C"))
    }
}

/// All commands of a document, in order.
pub(super) fn commands(path: &str, text: &str) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let (mut inside, mut is_setup, mut varying) = (false, false, Vec::new());
    for (index, line) in text.lines().enumerate() {
        if inside {
            if line == "```" {
                (inside, is_setup, varying) = (false, false, Vec::new());
            } else if let Some(command) = line.strip_prefix("$ ") {
                commands.push(Command {
                    path: path.to_owned(),
                    number: index + 1,
                    line: command.to_owned(),
                    shown: Vec::new(),
                    varying: varying.clone(),
                    is_setup,
                });
            } else {
                let command = commands.last_mut().unwrap_or_else(|| panic!("{path}: a block begins with $"));
                command.shown.push(line.to_owned());
            }
        } else if line == "```console" {
            inside = true;
        } else if line == SETUP {
            is_setup = true;
        } else if let Some(numbers) = line.strip_prefix(VARIES) {
            varying = numbers.trim_end_matches("-->").split_whitespace().map(str::to_owned).collect();
        }
    }
    assert!(!inside, "{path}: a block does not end");
    commands
}
