//! `coupon rebuild`: a projection from its events, beside the one that readers use meanwhile.

use anyhow::Context as _;
use clap::Args;
use clap::builder::PossibleValuesParser;
use outbox_relay::rebuild::{Progress, Rebuild};

use super::ended::Ended;
use super::print::{self, Output};
use crate::audit::{Scope, audit};
use crate::config::Config;
use crate::connections::{Connections, Patience};
use crate::progress::progress_bar;
use crate::projections;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The projection to rebuild.
    #[arg(value_parser = PossibleValuesParser::new(projections::names()))]
    projection: String,
    #[command(flatten)]
    output: Output,
}

/// Rebuilds the projection, then prints a full audit. If the rebuild fails, the old projection is as it was.
pub(super) async fn run(
    Arguments { projection: name, output }: Arguments,
    config: &Config,
) -> anyhow::Result<Ended> {
    let connections = Connections::open(config, Patience::None).await?;
    let projection = projections::all().into_iter().find(|projection| projection.name() == name);
    let projection = [projection.with_context(|| format!("there is no projection {name}"))?];
    let Connections { database, nats, outlet, .. } = &connections;
    let rebuild = Rebuild { database, nats, outlet, shards: config.shards, projection };
    let bar = progress_bar(0);
    let applied = rebuild
        .run(|Progress { applied, total }| {
            bar.set_length(total.unsigned_abs());
            bar.set_position(applied.unsigned_abs());
        })
        .await?;
    bar.finish_and_clear();
    if !output.json {
        print::say(format_args!("rebuilt {name} from {applied} events"))?;
    }
    let sheet = audit(&connections, config.shards, Scope { full: true, ..Scope::default() }).await?;
    output.sheet(&sheet)?;
    Ok(if sheet.is_balanced() { Ended::Done } else { Ended::NotBalanced })
}
