//! `coupon doctor`: the checks of the three servers.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use super::ended::Ended;
use super::print::Output;
use crate::config::Config;
use crate::doctor::{Finding, Health, examine};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Warn of transactions that have been open in Postgres for longer than this.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    open_max: u32,
    #[command(flatten)]
    output: Output,
}

/// Prints a line for each check, and their numbers.
pub(super) async fn run(arguments: &Arguments, config: &Config) -> Ended {
    let findings = examine(config, Duration::from_secs(arguments.open_max.into())).await;
    let number = |health| findings.iter().filter(|finding| finding.health == health).count();
    let (bad, unknown) = (number(Health::Bad), number(Health::Unknown));
    let numbers = [bad, unknown, number(Health::Warn), number(Health::Ok)];
    let value = json!({ "healthy": bad + unknown == 0, "findings": findings });
    let printed = arguments.output.result(&value, lines(&findings, numbers));
    match (printed, bad, unknown) {
        (Err(error), _, _) => Ended::CouldNotTell(error),
        (Ok(()), 0, 0) => Ended::Done,
        (Ok(()), 0, _) => {
            Ended::CouldNotTell(anyhow!("{unknown} of {} checks could not tell", findings.len()))
        }
        (Ok(()), _, _) => Ended::Unhealthy,
    }
}

fn lines(findings: &[Finding], [bad, unknown, warnings, ok]: [usize; 4]) -> String {
    let mut lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    lines.push(format!("{bad} bad, {unknown} unknown, {warnings} warnings, {ok} ok"));
    lines.join("\n")
}
