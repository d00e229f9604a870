//! `coupon dead`: the events that a projection could not apply.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use outbox_relay::Shard;
use outbox_relay::dead::{self, DeadError};
use serde_json::{Value, json};

use super::confirm::Confirmation;
use super::ended::Ended;
use super::print::Output;
use crate::config::Config;
use crate::connections::{Connections, Patience};
use crate::projections;

/// Parked events on a list: more than an operator reads.
const LISTED_MAX: i64 = 1_000;

/// Fields of a parked event.
const COLUMNS: [&str; 7] = ["projection", "shard", "position", "event_id", "attempts", "parked_at", "reason"];

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
        #[command(flatten)]
        output: Output,
    },
    /// Show one parked event, and the event itself. Example: coupon dead show wallet 17
    Show {
        #[command(flatten)]
        parked: Parked,
        #[command(flatten)]
        output: Output,
    },
    /// Apply one parked event now that its cause is gone. Example: coupon dead redrive wallet 17
    Redrive(Parked),
    /// Drop one parked event: the projection never applies it. Example: coupon dead drop wallet 17 --dry-run
    Drop {
        #[command(flatten)]
        parked: Parked,
        #[command(flatten)]
        confirmation: Confirmation,
        #[command(flatten)]
        output: Output,
    },
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
    if let DeadAction::Drop { confirmation, .. } = &action
        && let Some(refused) = confirmation.refused()
    {
        return Ok(refused);
    }
    let connections = Connections::open(config, Patience::None).await?;
    let mut connection = connections.pool.acquire().await?;
    let letters =
        |shard| dead::Letters { nats: &connections.nats, outlet: &connections.outlet, shard: Shard(shard) };
    match action {
        DeadAction::List { output } => {
            let parked = dead::list(&mut connection, LISTED_MAX).await?;
            output.list(&parked, &Value::Null, &COLUMNS)?;
        }
        DeadAction::Show { parked: Parked { projection, position, shard }, output } => {
            let (parked, event) = letters(shard).show(&mut connection, &projection, position).await?;
            let event: Value = serde_json::from_slice(&event.body).context("read the event")?;
            output.object(&json!({ "parked": parked, "event": event }), &["parked", "event"])?;
        }
        DeadAction::Redrive(Parked { projection, position, shard }) => {
            let projections = projections::all();
            let known = projections.iter().find(|known| known.name() == projection);
            let known = known.with_context(|| format!("there is no projection {projection}"))?;
            letters(shard).redrive(&mut connection, &**known, position).await?;
        }
        DeadAction::Drop { parked: Parked { projection, position, shard }, confirmation, output } => {
            let letters = letters(shard);
            if confirmation.looks() {
                let shown = letters.show(&mut connection, &projection, position).await;
                if let Some(ended) = unconfirmed(shown.map(|(parked, _)| parked), confirmation, output)? {
                    return Ok(ended);
                }
            }
            letters.drop_parked(&mut connection, &projection, position).await?;
        }
    }
    Ok(Ended::Done)
}

/// Shows what would be dropped, or asks. Returns how the command ends, unless the event may be dropped.
fn unconfirmed(
    shown: Result<dead::Parked, DeadError>,
    confirmation: Confirmation,
    output: Output,
) -> anyhow::Result<Option<Ended>> {
    match shown {
        // The drop is refused as well, and removes the letter that an interrupted one has left behind.
        Err(DeadError::NotParked { .. }) if !confirmation.dry_run => Ok(None),
        Err(error) => Err(error.into()),
        Ok(parked) if confirmation.dry_run => {
            output.dry_run(&parked, &COLUMNS)?;
            Ok(Some(Ended::Done))
        }
        Ok(parked) => Ok(confirmation.ask(&format!("Drop {parked} for ever?"))?),
    }
}
