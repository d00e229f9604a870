//! Compares two release binaries in about ten minutes: `BENCH=quick BASE=<path> make bench`.
//!
//! `BASE` is the binary to compare with; the new one is the release build of this tree; the base runs a second time as
//! the control. All three serve all the time, each on servers of its own whose database it has migrated itself. They
//! are measured in turn, in segments of a second, and each round begins with the next one, so that drift of the machine
//! cancels. The first round warms up and does not count. For each figure the table shows the median of base and new over
//! the rounds, the median of the ratios new ÷ base of the rounds with the range in which half of them lie, and the
//! median of the ratios control ÷ base. What the control differs from 1 is not a difference between the binaries:
//! no smaller difference between base and new means anything.
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
//! is in the long benchmarks. `BENCH_ROUNDS` sets the number of rounds (21; an odd one), `BENCH_ONLY` measures one segment only, named by its
//! first figure, `BENCH_JSON=<file>` also
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

/// Odd, so that each median is a measured value. With 7 rounds of 3 s the ratios of one binary to itself were off by 6 %,
/// with 21 of 1 s by 2 %.
const ROUNDS: u64 = 21;
/// Share of the machine. The rates of five rounds with one binary as both varied by half at three times this share.
const OTHERS_MAX: f64 = 0.1;

/// The figures of each segment, and which direction is better.
const SEGMENTS: [(Segment, Figures); 7] = [
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

type Figures = &'static [(&'static str, &'static str)];

/// The segments to measure.
fn segments() -> impl Iterator<Item = (Segment, Figures)> {
    let only = env::var("BENCH_ONLY").unwrap_or_default();
    SEGMENTS
        .into_iter()
        .filter(move |(_, figures)| only.is_empty() || figures.first().is_some_and(|(name, _)| *name == only))
}

/// A figure of the base, of the new binary, and of the control.
type Three = [f64; 3];

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Some(base) = env::var_os("BASE").map(PathBuf::from).and_then(|path| path.canonicalize().ok()) else {
        eprintln!("BASE must be the path of the release binary to compare with");
        return Ok(ExitCode::from(2));
    };
    let count = usize::try_from(number("BENCH_ROUNDS", ROUNDS))?.max(1);
    let started = Instant::now();
    println!("base: {}\nnew:  {PROGRAM}", base.display());
    let mut worlds =
        [World::start(&base).await?, World::start(Path::new(PROGRAM)).await?, World::start(&base).await?];
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
fn others_us(worlds: &[World; 3]) -> Result<f64> {
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

/// Measures every segment of each world in turn.
async fn round(worlds: &mut [World; 3], number: usize) -> Result<Vec<Three>> {
    let mut figures = Vec::new();
    for (segment, _) in segments() {
        let mut measured = [const { Vec::new() }; 3];
        for turn in 0..worlds.len() {
            let side = (number + turn) % worlds.len();
            measured[side] = worlds[side].measure(segment, number).await?;
        }
        let [base, new, control] = measured;
        figures.extend(
            base.into_iter().zip(new).zip(control).map(|((base, new), control)| [base, new, control]),
        );
    }
    Ok(figures)
}

/// Prints the table, and returns its figures.
fn report(rounds: &[Vec<Three>]) -> Value {
    println!(
        "\n{:<24} {:>9} {:>9} {:>9}  {:<13} {:>8}  better",
        "", "base", "new", "new/base", "half within", "control"
    );
    let names = segments().flat_map(|(_, names)| names);
    let rows = names.enumerate().map(|(index, (name, better))| {
        let of = |figure: fn(Three) -> f64| {
            let mut figures: Vec<f64> = rounds.iter().map(|round| figure(round[index])).collect();
            figures.sort_by(f64::total_cmp);
            figures
        };
        let (base, new) = (median(of(|[base, ..]| base)), median(of(|[_, new, _]| new)));
        let (ratios, control) = (of(|[base, new, _]| new / base), median(of(|[base, _, control]| control / base)));
        let (low, ratio, high) =
            (ratios[ratios.len() / 4], ratios[ratios.len() / 2], ratios[ratios.len() * 3 / 4]);
        let digits = usize::from(base < 1_000.0);
        println!(
            "{name:<24} {base:>9.digits$} {new:>9.digits$} {ratio:>9.3}  {:<13} {control:>8.3}  {better}",
            format!("{low:.3} - {high:.3}")
        );
        json!({ "figure": name, "base": base, "new": new, "ratio": ratio, "low": low, "high": high, "control": control })
    });
    rows.collect()
}
