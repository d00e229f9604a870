//! `coupon assets`: completions of shells, and man pages.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::{Shell, generate_to};

use super::ended::Ended;

/// The name of the program.
const PROGRAM: &str = "coupon";
/// Shells that have completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Folder for `completions` and `man/man1`; created if it is missing.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Writes the files for the program whose command line this is. Files of an earlier call are replaced.
pub(super) fn run(Arguments { folder }: &Arguments, mut program: Command) -> anyhow::Result<Ended> {
    let [completions, man] = ["completions", "man/man1"].map(|name| folder.join(name));
    for folder in [&completions, &man] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    for shell in SHELLS {
        generate_to(shell, &mut program, PROGRAM, &completions)
            .with_context(|| format!("write the completions of {shell}"))?;
    }
    clap_mangen::generate_to(program, &man).context("write the man pages")?;
    Ok(Ended::Done)
}
