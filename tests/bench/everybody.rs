//! Measures what a night brings besides one hot campaign, each figure with its ratio to `GET /livez` or to one campaign
//! in the same run, and the CPU time that one issue costs in each server. An outside client (wrk) with 256 connections
//! runs on the same machine. For one row a second client claims on quiet campaigns, over a few connections, while the
//! first claims on a hot one; the ratio of this row is that of the two p99. Absolute figures depend on the machine;
//! compare the ratios.
//!
//! `BENCH_SECONDS` sets the length of a segment (3 s). Every figure is the median of `BENCH_ROUNDS` segments (5), which
//! are measured in turn with the others, so that drift of the machine does not favour one. The campaigns of the rows
//! with 1,000 and 10,000 are created and measured after all others, because open campaigns cost time at rest too.

#[allow(dead_code, reason = "only the quick benchmark measures the machine and the client")]
mod cpu;
mod load;
mod night;
mod service;
mod support;

use std::path::Path;

use anyhow::Result;

use crate::load::{Answers, Claims, median};
use crate::night::{Beside, Kind, Night, QUIET};
use crate::service::{PROGRAM, Service};
use crate::support::number;

/// Campaigns, and the goal for their rate as a share of that of one.
const CAMPAIGNS: [(usize, &str); 3] = [(100, ">= 0.75"), (1_000, ">= 0.55"), (10_000, ">= 0.3")];
/// Kinds of answers, and the goals for their rate as a share of that of livez, and for the p99 in ms.
const KINDS: [(Kind, &str, &str); 7] = [
    (Kind::SoldOut, ">= 0.75", ""),
    (Kind::NotOpen, ">= 0.75", ""),
    (Kind::Closed, ">= 0.75", ""),
    (Kind::AskedAgain, ">= 0.35", "<= 30"),
    (Kind::Wallet, ">= 0.35", "<= 30"),
    (Kind::Coupon, ">= 0.4", "<= 30"),
    (Kind::Campaign, ">= 0.5", "<= 30"),
];
/// The goal for the p99 of claims on quiet campaigns, as a multiple of that of the hot one beside them.
const QUIET_GOAL: &str = "<= 2";
const SERVERS: [&str; 4] = ["service", "Postgres", "Redis", "NATS"];

/// The figures of each round.
#[derive(Debug, Default)]
struct Figures {
    livez: Vec<f64>,
    one: Vec<Claims>,
    /// CPU time per issue in microseconds, server by server.
    cpu: [Vec<f64>; 4],
    many: [Vec<Claims>; CAMPAIGNS.len()],
    /// Of a hot campaign, and of the quiet ones beside it.
    beside: Vec<[Answers; 2]>,
    rates: [Vec<f64>; KINDS.len()],
    p99s: [Vec<f64>; KINDS.len()],
}

#[tokio::main]
async fn main() -> Result<()> {
    let (seconds, rounds) = (number("BENCH_SECONDS", 3), usize::try_from(number("BENCH_ROUNDS", 5))?.max(1));
    let service = Service::start(Path::new(PROGRAM), None).await?;
    let night = Night::begin(&service).await?;
    let beside = Beside::begin(&service).await?;
    let mut figures = Figures::default();
    for (place, (count, _)) in CAMPAIGNS.into_iter().enumerate() {
        let campaigns = night::campaigns(&service, count).await?;
        for round in 0..rounds {
            println!("{count} campaigns, round {} of {rounds}", round + 1);
            if place == 0 {
                figures.measure(&service, &night, round, seconds).await?;
                figures.beside.push(beside.measure(&service, round, seconds).await?);
            }
            figures.many[place].push(service.claims_of(&campaigns, round, seconds).await?);
        }
    }
    figures.report();
    Ok(())
}

impl Figures {
    async fn measure(&mut self, service: &Service, night: &Night, round: usize, seconds: u64) -> Result<()> {
        self.livez.push(service.livez().await?);
        let before = cpu::service_us(service)?;
        let one = service.claims(round, seconds).await?;
        for ((spent, after), before) in self.cpu.iter_mut().zip(cpu::service_us(service)?).zip(before) {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            spent.push((after - before) / one.issued as f64);
        }
        self.one.push(one);
        for (place, (kind, ..)) in KINDS.into_iter().enumerate() {
            let answers = night.measure(service, kind, round, seconds).await?;
            self.rates[place].push(answers.rate());
            self.p99s[place].push(answers.p99_ms);
        }
        Ok(())
    }

    fn report(self) {
        let livez = median(self.livez);
        println!("\n{:<34} {:>10} {:>8} {:<9} {:>8}  goal", "", "per second", "ratio", "goal", "p99 ms");
        let row = |name: &str, rate: f64, ratio: f64, goal: &str, p99: f64, p99_goal: &str| {
            println!("{name:<34} {rate:>10.0} {ratio:>8.2} {goal:<9} {p99:>8.1}  {p99_goal}");
        };
        println!("{:<34} {livez:>10.0}", "GET /livez");
        let rates = |claims: &[Claims]| median(claims.iter().map(|claims| claims.rate()).collect());
        let p99s = |claims: &[Claims]| median(claims.iter().map(|claims| claims.p99_ms).collect());
        let (one, one_p99) = (rates(&self.one), p99s(&self.one));
        row("issues, one campaign, to livez", one, one / livez, "", one_p99, "");
        for (claims, (count, goal)) in self.many.iter().zip(CAMPAIGNS) {
            let name = format!("issues, {count} campaigns, to one");
            let p99_goal = format!("<= {:.1}", 2.0 * one_p99);
            row(&name, rates(claims), rates(claims) / one, goal, p99s(claims), &p99_goal);
        }
        let quiet = |figure: fn(&[Answers; 2]) -> f64| median(self.beside.iter().map(figure).collect());
        let p99_goal = format!("<= {:.1}", 2.0 * quiet(|[hot, _]| hot.p99_ms));
        let (rate, p99) = (quiet(|[_, quiet]| quiet.rate()), quiet(|[_, quiet]| quiet.p99_ms));
        let ratio = quiet(|[hot, quiet]| quiet.p99_ms / hot.p99_ms);
        row(&format!("claims, {QUIET} quiet beside a hot one"), rate, ratio, QUIET_GOAL, p99, &p99_goal);
        for (place, (kind, goal, p99_goal)) in KINDS.into_iter().enumerate() {
            let rate = median(self.rates[place].clone());
            row(
                &format!("{kind:?}, to livez"),
                rate,
                rate / livez,
                goal,
                median(self.p99s[place].clone()),
                p99_goal,
            );
        }
        let cpu = self.cpu.map(median);
        println!("\nCPU us per issue, one campaign");
        for (server, spent) in SERVERS.iter().zip(cpu) {
            println!("{server:<34} {spent:>10.1}");
        }
        println!("{:<34} {:>10.1}", "all", cpu.iter().sum::<f64>());
    }
}
