//! `coupon audit`: the balance sheet.

use clap::Args;

use super::ended::Ended;
use super::print::Output;
use crate::audit::{Scope, audit};
use crate::config::Config;
use crate::connections::{Connections, Patience};
use crate::ids::CampaignId;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Audit this campaign alone.
    #[arg(long)]
    campaign: Option<CampaignId>,
    /// Compare every event, seat and row, and count them.
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    output: Output,
}

/// Prints the sheet. A failure means that the audit could not tell.
pub(super) async fn run(arguments: &Arguments, config: &Config) -> Ended {
    balance(arguments, config).await.unwrap_or_else(Ended::CouldNotTell)
}

async fn balance(
    &Arguments { campaign, full, output }: &Arguments,
    config: &Config,
) -> anyhow::Result<Ended> {
    let connections = Connections::open(config, Patience::None).await?;
    let sheet = audit(&connections, config.shards, Scope { campaign, full }).await?;
    output.sheet(&sheet)?;
    Ok(if sheet.is_balanced() { Ended::Done } else { Ended::NotBalanced })
}
