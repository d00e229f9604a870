//! `coupon dead`: the events that a projection could not apply.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use outbox_relay::{Shard, dead};
use serde_json::{Value, json};

use super::ended::Ended;
use super::print;
use crate::config::Config;
use crate::connections::{Connections, Patience};
use crate::projections;

/// Parked events on a list: more than an operator reads.
const LISTED_MAX: i64 = 1_000;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: DeadAction,
}

/// See [`mod@outbox_relay::dead`].
#[derive(Debug, Subcommand)]
enum DeadAction {
    /// List parked events, at most 1,000. Example: coupon dead list --json
    List {
        /// Print one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print one parked event as JSON. Example: coupon dead show wallet 17
    Show(Parked),
    /// Apply one parked event now that its cause is gone. Example: coupon dead redrive wallet 17
    Redrive(Parked),
    /// Drop one parked event: the projection never applies it. Example: coupon dead drop wallet 17
    Drop(Parked),
}

/// Which parked event.
#[derive(Debug, Args)]
struct Parked {
    /// The projection that could not apply it.
    projection: String,
    /// Its position in the outbox of its shard.
    position: i64,
    /// Number of the shard, from 0.
    #[arg(long, default_value_t = 0)]
    shard: i16,
}

/// Lists, shows, redrives or drops parked events.
pub(super) async fn run(Arguments { action }: Arguments, config: &Config) -> anyhow::Result<Ended> {
    let connections = Connections::open(config, Patience::None).await?;
    let mut connection = connections.pool.acquire().await?;
    let letters =
        |shard| dead::Letters { nats: &connections.nats, outlet: &connections.outlet, shard: Shard(shard) };
    match action {
        DeadAction::List { json } => {
            let parked = dead::list(&mut connection, LISTED_MAX).await?;
            if json {
                print::json(&parked)?;
            } else {
                print::lines(parked)?;
            }
        }
        DeadAction::Show(Parked { projection, position, shard }) => {
            let (parked, event) = letters(shard).show(&mut connection, &projection, position).await?;
            let event: Value = serde_json::from_slice(&event.body).context("read the event")?;
            print::document(&json!({ "parked": parked, "event": event }))?;
        }
        DeadAction::Redrive(Parked { projection, position, shard }) => {
            let projections = projections::all();
            let known = projections.iter().find(|known| known.name() == projection);
            let known = known.with_context(|| format!("there is no projection {projection}"))?;
            letters(shard).redrive(&mut connection, &**known, position).await?;
        }
        DeadAction::Drop(Parked { projection, position, shard }) => {
            letters(shard).drop_parked(&mut connection, &projection, position).await?;
        }
    }
    Ok(Ended::Done)
}
