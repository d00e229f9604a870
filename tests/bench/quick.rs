//! Compares two release binaries in about four minutes: `BENCH=quick BASE=<path> make bench`.
//!
//! `BASE` is the binary to compare with; the new one is the release build of this tree. Both serve all the time,
//! each on servers of its own whose database it has migrated itself. They are measured in turn, in short
//! segments, and each round begins with the other one, so that drift of the machine cancels. The first round
//! warms up and does not count. For each figure the table shows the median of each binary over the rounds, the
//! median of the ratios new ÷ base of the rounds, and the least and greatest of these ratios:
//!
//! * issues/s: coupons of one campaign per second, from the first claim until all are projected;
//! * p99 of claims: 99 % of the claims at 256 connections were answered within this time;
//! * CPU us/issue: user and system time of the service, of each server with all its processes, and of the
//!   client (wrk), from the first claim until all issues are projected, per issue;
//! * livez/s: `GET /livez` per second by the same client: the cost of HTTP alone;
//! * issues/s of 100 campaigns: the same as issues/s, by turns;
//! * answers/s: to new users of a campaign that is sold out, to its winners who ask again, and to users who read their
//!   wallets;
//! * relay drain: events per second from the outbox into the stream, from the first event of a backlog of 60,000
//!   to the last. The backlog is appended in SQL while the service is frozen (SIGSTOP).
//!
//! Postgres runs without autovacuum and checkpoints, which would hit one binary and not the other: their cost
//! is in the long benchmarks. `BENCH_ROUNDS` sets the number of rounds (5; an odd one), `BENCH_JSON=<file>` also
//! writes the figures to a file. Exit codes: 0 measured, 1 failed, 2 no `BASE`.

mod cpu;
mod load;
#[allow(dead_code, reason = "`everybody` measures more kinds of load")]
mod night;
mod service;
mod support;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::load::median;
use crate::night::Kind;
use crate::service::PROGRAM;
use crate::support::number;
use crate::world::{Segment, World};

/// Odd, so that each median is a measured value; more do not fit into four minutes.
const ROUNDS: u64 = 5;
/// Share of the machine. The rates of five rounds with one binary as both varied by half at three times this share.
const OTHERS_MAX: f64 = 0.1;

/// The figures of each segment, and which direction is better.
const SEGMENTS: [(Segment, &[(&str, &str)]); 7] = [
    (
        Segment::Claims,
        &[
            ("issues/s", "higher"),
            ("p99 of claims, ms", "lower"),
            ("CPU us/issue, service", "lower"),
            ("CPU us/issue, Postgres", "lower"),
            ("CPU us/issue, Redis", "lower"),
            ("CPU us/issue, NATS", "lower"),
            ("CPU us/issue, wrk", "lower"),
        ],
    ),
    (Segment::Livez, &[("livez/s", "higher")]),
    (Segment::ManyCampaigns, &[("issues/s, 100 campaigns", "higher")]),
    (Segment::Night(Kind::SoldOut), &[("answers/s, sold out", "higher")]),
    (Segment::Night(Kind::AskedAgain), &[("answers/s, asked again", "higher")]),
    (Segment::Night(Kind::Wallet), &[("answers/s, wallets", "higher")]),
    (Segment::Drain, &[("relay drain, events/s", "higher")]),
];

/// A figure of the base and of the new binary.
type Pair = [f64; 2];

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Some(base) = env::var_os("BASE").map(PathBuf::from).and_then(|path| path.canonicalize().ok()) else {
        eprintln!("BASE must be the path of the release binary to compare with");
        return Ok(ExitCode::from(2));
    };
    let count = usize::try_from(number("BENCH_ROUNDS", ROUNDS))?.max(1);
    let started = Instant::now();
    println!("base: {}\nnew:  {PROGRAM}", base.display());
    let mut worlds = [World::start(&base).await?, World::start(Path::new(PROGRAM)).await?];
    round(&mut worlds, 0).await?;
    for world in &mut worlds {
        world.analyze().await?;
    }
    let (others_us, since) = (others_us(&worlds)?, Instant::now());
    let mut rounds = Vec::with_capacity(count);
    for number in 1..=count {
        rounds.push(round(&mut worlds, number).await?);
    }
    let others = share_of_machine(self::others_us(&worlds)? - others_us, since)?;
    let figures = report(&rounds);
    println!(
        "{count} rounds, {} s in all; other programs took {:.0} % of the machine{}",
        started.elapsed().as_secs(),
        others * 100.0,
        if others > OTHERS_MAX { ": too much, run it again when they rest" } else { "" }
    );
    if let Some(file) = env::var_os("BENCH_JSON") {
        fs::write(file, serde_json::to_vec_pretty(&figures)?).context("write BENCH_JSON")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// CPU time of everything on this machine but this benchmark, in microseconds.
fn others_us(worlds: &[World; 2]) -> Result<f64> {
    let mut others = cpu::machine_us()? - cpu::own_us()?;
    for world in worlds {
        others -= world.cpu_us()?.iter().sum::<f64>();
    }
    Ok(others)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn share_of_machine(us: f64, since: Instant) -> Result<f64> {
    Ok(us / (since.elapsed().as_secs_f64() * 1_000_000.0 * available_parallelism()?.get() as f64))
}

/// Measures every segment of both binaries in turn.
async fn round(worlds: &mut [World; 2], number: usize) -> Result<Vec<Pair>> {
    let mut figures = Vec::new();
    for (segment, _) in SEGMENTS {
        let mut measured = [Vec::new(), Vec::new()];
        for side in [number % 2, 1 - number % 2] {
            measured[side] = worlds[side].measure(segment, number).await?;
        }
        let [base, new] = measured;
        figures.extend(base.into_iter().zip(new).map(<[f64; 2]>::from));
    }
    Ok(figures)
}

/// Prints the table, and returns its figures.
fn report(rounds: &[Vec<Pair>]) -> Value {
    println!("\n{:<24} {:>9} {:>9} {:>9}  {:<13} better", "", "base", "new", "new/base", "min - max");
    let names = SEGMENTS.iter().flat_map(|(_, names)| names.iter());
    let rows = names.enumerate().map(|(index, (name, better))| {
        let of =
            |figure: fn(Pair) -> f64| rounds.iter().map(|round| figure(round[index])).collect::<Vec<_>>();
        let (base, new) = (median(of(|[base, _]| base)), median(of(|[_, new]| new)));
        let mut ratios = of(|[base, new]| new / base);
        ratios.sort_by(f64::total_cmp);
        let (ratio, min, max) = (ratios[ratios.len() / 2], ratios[0], ratios[ratios.len() - 1]);
        let digits = usize::from(base < 1_000.0);
        println!(
            "{name:<24} {base:>9.digits$} {new:>9.digits$} {ratio:>9.3}  {:<13} {better}",
            format!("{min:.3} - {max:.3}")
        );
        json!({ "figure": name, "base": base, "new": new, "ratio": ratio, "min": min, "max": max })
    });
    rows.collect()
}
