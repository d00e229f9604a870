//! Questions before a command does what cannot be undone.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;

use super::ended::Ended;

/// Whether a command that cannot be undone may begin.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Confirmation {
    /// Do not ask. Needed where standard input is no terminal.
    #[arg(long)]
    pub(super) yes: bool,
    /// Show what would be changed, and change nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Confirmation {
    /// How the command ends at once, because it must ask and nobody can answer.
    pub(super) fn refused(self) -> Option<Ended> {
        let may_begin = self.yes || self.dry_run || io::stdin().is_terminal();
        let advice = "standard input is no terminal, so nobody can be asked: add --yes to do it, or --dry-run to see what would be changed";
        (!may_begin).then(|| Ended::WrongUsage(advice.to_owned()))
    }

    /// Whether the command shows what it would change: to ask, or instead.
    pub(super) fn looks(self) -> bool {
        self.dry_run || !self.yes
    }

    /// Asks on the terminal. Returns how the command ends, unless the answer is yes.
    pub(super) fn ask(self, question: &str) -> io::Result<Option<Ended>> {
        Ok(if self.yes || is_confirmed(question)? { None } else { Some(Ended::Declined) })
    }
}

/// Asks on the terminal. No answer is a no.
pub(super) fn is_confirmed(question: &str) -> io::Result<bool> {
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
