//! `coupon relay`: the decisions that a halted relay waits for.

use anyhow::ensure;
use clap::{Args, Subcommand};
use outbox_relay::epoch::Epochs;
use outbox_relay::{Shard, recovery};

use super::ended::Ended;
use super::print;
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
        /// Print one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the epochs of a shard as JSON, the first one first. Example: coupon relay epoch list --shard 0
    List {
        /// Number of the shard, from 0.
        #[arg(long, default_value_t = 0)]
        shard: i16,
    },
}

/// Begins an epoch, or lists all of a shard.
pub(super) async fn run(
    Arguments { action: RelayAction::Epoch { action } }: Arguments,
    config: &Config,
) -> anyhow::Result<Ended> {
    let (EpochAction::New { shard, .. } | EpochAction::List { shard }) = &action;
    ensure!((0..config.shards).contains(shard), "there is no shard {shard}");
    let connections = Connections::open(config, Patience::None).await?;
    match action {
        EpochAction::List { shard } => {
            let mut connection = connections.pool.acquire().await?;
            print::document(&Epochs::read(&mut connection, Shard(shard)).await?)?;
        }
        EpochAction::New { shard, json } => {
            let Connections { database, nats, outlet, .. } = &connections;
            let begun = recovery::begin(database, nats, outlet, Shard(shard), config.replicas).await?;
            if json {
                print::json(&begun)?;
            } else {
                print::say(&begun)?;
            }
        }
    }
    Ok(Ended::Done)
}
