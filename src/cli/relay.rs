//! `coupon relay`: the decisions that a halted relay waits for.

use anyhow::ensure;
use clap::{Args, Subcommand};
use outbox_relay::epoch::Epochs;
use outbox_relay::standing::Standing;
use outbox_relay::{Shard, recovery};
use serde_json::{Value, json};

use super::confirm::Confirmation;
use super::ended::Ended;
use super::print::Output;
use crate::config::Config;
use crate::connections::{Connections, Patience};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: RelayAction,
}

#[derive(Debug, Subcommand)]
enum RelayAction {
    /// Begin a new epoch for a halted relay, or list epochs. An epoch maps positions of the outbox to sequences of the
    /// stream. Example: coupon relay epoch list
    Epoch {
        #[command(subcommand)]
        action: EpochAction,
    },
}

/// See [`outbox_relay::epoch`].
#[derive(Debug, Subcommand)]
enum EpochAction {
    /// Let a halted relay continue, at the end of the stream as it is, behind the last event on which outbox and stream
    /// agree. Example: coupon relay epoch new --shard 0
    New {
        /// Number of the shard, from 0.
        #[arg(long, default_value_t = 0)]
        shard: i16,
        #[command(flatten)]
        confirmation: Confirmation,
        #[command(flatten)]
        output: Output,
    },
    /// List the epochs of a shard, the first one first. Example: coupon relay epoch list --shard 0
    List {
        /// Number of the shard, from 0.
        #[arg(long, default_value_t = 0)]
        shard: i16,
        #[command(flatten)]
        output: Output,
    },
}

/// Begins an epoch, or lists all of a shard.
pub(super) async fn run(
    Arguments { action: RelayAction::Epoch { action } }: Arguments,
    config: &Config,
) -> anyhow::Result<Ended> {
    let (EpochAction::New { shard, .. } | EpochAction::List { shard, .. }) = &action;
    ensure!((0..config.shards).contains(shard), "there is no shard {shard}");
    match action {
        EpochAction::List { shard, output } => {
            let connections = Connections::open(config, Patience::None).await?;
            let mut connection = connections.pool.acquire().await?;
            let epochs = Epochs::read(&mut connection, Shard(shard)).await?;
            output.list(&epochs, &Value::Null, &["epoch", "first_position", "first_sequence"])?;
            Ok(Ended::Done)
        }
        EpochAction::New { shard, confirmation, output } => {
            begin(Shard(shard), config, confirmation, output).await
        }
    }
}

async fn begin(
    shard: Shard,
    config: &Config,
    confirmation: Confirmation,
    output: Output,
) -> anyhow::Result<Ended> {
    if let Some(refused) = confirmation.refused() {
        return Ok(refused);
    }
    let connections = Connections::open(config, Patience::None).await?;
    if confirmation.looks() {
        let halted = halted(&connections, shard).await?;
        if confirmation.dry_run {
            output.dry_run(&json!({ "shard": shard, "halted": halted }), &["shard", "halted"])?;
            return Ok(Ended::Done);
        }
        let halted = halted.unwrap_or_else(|| "no relay has reported why".to_owned());
        let question =
            format!("Begin a new epoch of shard {shard} for ever? Why its relay is halted: {halted}.");
        if let Some(declined) = confirmation.ask(&question)? {
            return Ok(declined);
        }
    }
    let Connections { database, nats, outlet, .. } = &connections;
    let begun = recovery::begin(database, nats, outlet, shard, config.replicas).await?;
    output.result(&begun, &begun)?;
    Ok(Ended::Done)
}

/// Why the relay of a shard is halted, if it is.
async fn halted(connections: &Connections, shard: Shard) -> anyhow::Result<Option<String>> {
    let mut connection = connections.pool.acquire().await?;
    let standings = Standing::read(&mut connection, &connections.outlet, &[(shard, None)]).await?;
    Ok(standings.into_iter().find_map(|standing| standing.halted))
}
