//! `coupon status`: campaigns, waiting events and active relays, in one look. It asks Postgres and NATS, not the API,
//! so that it works on a night on which the API is away.

mod draw;
mod look;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use outbox_relay::reason::reason_of;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::draw::{Picture, summary};
use self::look::{Looker, Status};
use super::ended::Ended;
use super::print::{self, Output};
use super::stop;
use crate::config::Config;

/// From one look to the next with `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Between the two looks that tell the rate, without `--watch`.
const RATE_INTERVAL: Duration = Duration::from_secs(1);
/// Moves the cursor of a terminal to its beginning and clears what is behind it.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Look again every 2 s, until Ctrl-C: redraws a terminal, and prints a line for each look elsewhere.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    output: Output,
}

/// Prints one look, or one after the other until it is stopped.
pub(super) async fn run(Arguments { watch, output }: Arguments, config: &Config) -> anyhow::Result<Ended> {
    let mut looker = Looker::connect(config).await?;
    looker.look().await?; // the rate needs two
    if watch {
        return self::watch(looker, output).await;
    }
    sleep(RATE_INTERVAL).await;
    let status = looker.look().await?;
    output.result(&status, Picture(&status))?;
    Ok(Ended::Done)
}

async fn watch(mut looker: Looker, output: Output) -> anyhow::Result<Ended> {
    let stop = stop::on_signal()?;
    let mut ticks = interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return Ok(Ended::Done),
        }
        match looker.look().await {
            Ok(status) => show(&status, output)?,
            // The next look may succeed.
            Err(error) => eprintln!("coupon: {}", reason_of(error.as_ref())),
        }
    }
}

fn show(status: &Status, output: Output) -> anyhow::Result<()> {
    if !output.json && io::stdout().is_terminal() {
        return Ok(print::say(format_args!("{CLEAR}{}", Picture(status)))?);
    }
    output.result(status, summary(status))
}
