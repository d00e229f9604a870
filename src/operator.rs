//! What operators do besides serving: audits, rebuilds, epochs and dead letters.

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use outbox_relay::epoch::Epochs;
use outbox_relay::rebuild::{Progress, Rebuild};
use outbox_relay::{Shard, dead, recovery};
use serde_json::{Value, json};

use crate::app::projections;
use crate::audit::{self, Scope};
use crate::config::Config;
use crate::connections::{Connections, Patience};
use crate::event::OUTLET;
use crate::progress::{progress_bar, say};

/// Parked events on a list.
const LETTERS_MAX: i64 = 1_000;

/// What only an operator can decide for a relay.
#[derive(Debug, Subcommand)]
pub enum RelayAction {
    /// Epochs: how positions of the outbox and sequences of its stream are tied together.
    Epoch {
        #[command(subcommand)]
        action: EpochAction,
    },
}

/// See [`outbox_relay::epoch`].
#[derive(Debug, Subcommand)]
pub enum EpochAction {
    /// Let a relay that has stopped go on: at the end of the stream as it is, behind the last event on which
    /// outbox and stream agree. Example: coupon relay epoch new --shard 0
    New {
        #[arg(long, default_value_t = 0)]
        shard: i16,
        #[arg(long)]
        json: bool,
    },
    /// All that were begun. Example: coupon relay epoch list --shard 0
    List {
        #[arg(long, default_value_t = 0)]
        shard: i16,
    },
}

/// See [`mod@outbox_relay::dead`].
#[derive(Debug, Subcommand)]
pub enum DeadAction {
    /// What is parked. Example: coupon dead list --json
    List {
        #[arg(long)]
        json: bool,
    },
    /// One event, as JSON. Example: coupon dead show wallet 17
    Show(Letter),
    /// Apply it after all. Example: coupon dead redrive wallet 17
    Redrive(Letter),
    /// Give it up: it is never applied. Example: coupon dead drop wallet 17
    Drop(Letter),
}

/// A parked event.
#[derive(Debug, Args)]
pub struct Letter {
    projection: String,
    position: i64,
    #[arg(long, default_value_t = 0)]
    shard: i16,
}

/// Begins an epoch, or lists all.
///
/// # Errors
/// When a server cannot be asked, or there is nothing to begin.
pub async fn relay(config: &Config, RelayAction::Epoch { action }: RelayAction) -> anyhow::Result<()> {
    let connections = Connections::open(config, Patience::None).await?;
    match action {
        EpochAction::List { shard } => {
            let mut connection = connections.pool.acquire().await?;
            let epochs = Epochs::read(&mut connection, Shard(shard)).await?;
            say(serde_json::to_string_pretty(&epochs)?)?;
        }
        EpochAction::New { shard, json } => {
            ensure!((0..config.shards).contains(&shard), "there is no shard {shard}");
            let Connections { database, nats, .. } = &connections;
            let begun = recovery::begin(database, nats, &OUTLET, Shard(shard), config.replicas).await?;
            if json {
                say(serde_json::to_string(&begun)?)?;
            } else {
                say(&begun)?;
            }
        }
    }
    Ok(())
}

/// Rebuilds a projection, and then audits: answers whether it balances.
///
/// # Errors
/// When a server cannot be asked, or the projection cannot be rebuilt; the old one is as it was.
pub async fn rebuild(config: &Config, name: &str, json: bool) -> anyhow::Result<bool> {
    let connections = Connections::open(config, Patience::None).await?;
    let projection = projections().into_iter().find(|projection| projection.name() == name);
    let projection = [projection.with_context(|| format!("there is no projection {name}"))?];
    let Connections { database, nats, .. } = &connections;
    let rebuild = Rebuild { database, nats, outlet: &OUTLET, shards: config.shards, projection };
    let bar = progress_bar(0);
    let applied = rebuild
        .run(|Progress { applied, total }| {
            bar.set_length(total.unsigned_abs());
            bar.set_position(applied.unsigned_abs());
        })
        .await?;
    bar.finish_and_clear();
    if !json {
        say(format_args!("rebuilt {name} from {applied} events"))?;
    }
    print_sheet(&connections, config.shards, Scope { full: true, ..Scope::default() }, json).await
}

/// Prints the balance sheet, and answers whether it balances.
///
/// # Errors
/// When it could not be told.
pub async fn audit(config: &Config, scope: Scope, json: bool) -> anyhow::Result<bool> {
    let connections = Connections::open(config, Patience::None).await?;
    print_sheet(&connections, config.shards, scope, json).await
}

async fn print_sheet(
    connections: &Connections,
    shards: i16,
    scope: Scope,
    json: bool,
) -> anyhow::Result<bool> {
    let sheet = audit::audit(connections, shards, scope).await?;
    if json {
        say(serde_json::to_string(&json!({ "balanced": sheet.is_balanced(), "sheet": sheet }))?)?;
    } else {
        say(&sheet)?;
    }
    Ok(sheet.is_balanced())
}

/// Lists, shows, redrives or drops what is parked.
///
/// # Errors
/// When a server cannot be asked, nothing is parked there, or it can still not be applied.
pub async fn dead(config: &Config, action: DeadAction) -> anyhow::Result<()> {
    let connections = Connections::open(config, Patience::None).await?;
    let mut connection = connections.pool.acquire().await?;
    let letters = |shard| dead::Letters { nats: &connections.nats, outlet: &OUTLET, shard: Shard(shard) };
    match action {
        DeadAction::List { json } => {
            let parked = dead::list(&mut connection, LETTERS_MAX).await?;
            if json {
                say(serde_json::to_string(&parked)?)?;
            } else {
                for parked in parked {
                    say(&parked)?;
                }
            }
        }
        DeadAction::Show(Letter { projection, position, shard }) => {
            let (parked, event) = letters(shard).show(&mut connection, &projection, position).await?;
            let event: Value = serde_json::from_slice(&event.body)?;
            say(serde_json::to_string_pretty(&json!({ "parked": parked, "event": event }))?)?;
        }
        DeadAction::Redrive(Letter { projection, position, shard }) => {
            let projections = projections();
            let known = projections.iter().find(|known| known.name() == projection);
            let known = known.with_context(|| format!("there is no projection {projection}"))?;
            letters(shard).redrive(&mut connection, &**known, position).await?;
        }
        DeadAction::Drop(Letter { projection, position, shard }) => {
            letters(shard).drop_parked(&mut connection, &projection, position).await?;
        }
    }
    Ok(())
}
