//! Measures what a night brings besides one hot campaign, each figure with its ratio to `GET /livez` or to one campaign
//! in the same run, claims with each kind of bearer token, and the CPU time that one issue costs in each server. An
//! outside client (wrk) with 256 connections runs on the same machine. For one row a second client claims on quiet
//! campaigns, over a few connections, while the first claims on a hot one; the ratio of this row is that of the two p99.
//! Absolute figures depend on the machine; compare the ratios. The machine's speed changes within a run, so livez or one
//! campaign is measured again right before each figure that is compared with it, and a ratio is the median of those of
//! the rounds.
//!
//! `BENCH_SECONDS` sets the length of a segment (3 s). Every figure is the median of `BENCH_ROUNDS` segments (5), which
//! are measured in turn with the others, so that drift of the machine does not favour one. The campaigns of the rows
//! with 1,000 and 10,000 are created and measured after all others, because open campaigns cost time at rest too.

mod bearers;
#[allow(dead_code, reason = "only the quick benchmark measures the machine and the client")]
mod cpu;
mod load;
mod night;
mod service;
#[path = "../it/users/signing.rs"]
#[allow(clippy::unwrap_used, dead_code, reason = "tests sign with it too")]
mod signing;
mod support;

use std::path::Path;

use anyhow::Result;

use crate::bearers::Bearers;
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
/// Kinds of bearer tokens, and the goals for the rate of claims with them as a share of that with `ADMIN_TOKEN`.
const BEARERS: [(bearers::Kind, &str); 4] = [
    (bearers::Kind::AdminToken, ""),
    (bearers::Kind::ApiToken, ">= 0.97"),
    (bearers::Kind::Hs256, ""),
    (bearers::Kind::Es256, ""),
];
/// The goal for the p99 of claims on quiet campaigns, as a multiple of that of the hot one beside them.
const QUIET_GOAL: &str = "<= 2";
const SERVERS: [&str; 4] = ["service", "Postgres", "Redis", "NATS"];

/// The figures of each round.
#[derive(Debug, Default)]
struct Figures {
    livez: Vec<f64>,
    /// One campaign, and the CPU time per issue in microseconds, server by server.
    one: Vec<Claims>,
    cpu: [Vec<f64>; 4],
    /// One campaign, and many right after it.
    many: [Vec<[Claims; 2]>; CAMPAIGNS.len()],
    /// Of a hot campaign, and of the quiet ones beside it.
    beside: Vec<[Answers; 2]>,
    /// Claims with each kind of bearer token, side by side.
    bearers: [Vec<Claims>; BEARERS.len()],
    /// The rate of livez, and the answers right after it.
    kinds: [Vec<(f64, Answers)>; KINDS.len()],
}

#[tokio::main]
async fn main() -> Result<()> {
    let (seconds, rounds) = (number("BENCH_SECONDS", 3), usize::try_from(number("BENCH_ROUNDS", 5))?.max(1));
    let mut bearers = Bearers::new();
    let service = Service::start(Path::new(PROGRAM), &bearers.environment()?).await?;
    bearers.begin(&service).await?;
    let night = Night::begin(&service).await?;
    let beside = Beside::begin(&service).await?;
    let mut figures = Figures::default();
    for (place, (count, _)) in CAMPAIGNS.into_iter().enumerate() {
        let campaigns = night::campaigns(&service, count).await?;
        for round in 0..rounds {
            println!("{count} campaigns, round {} of {rounds}", round + 1);
            if place == 0 {
                figures.measure(&service, &night, round, seconds).await?;
                figures.compare(&service, &bearers, round, seconds).await?;
                figures.beside.push(beside.measure(&service, round, seconds).await?);
            }
            let one = service.claims(rounds * (place + 1) + round, seconds).await?;
            figures.many[place].push([one, service.claims_of(&campaigns, round, seconds).await?]);
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
            let livez = service.livez().await?;
            self.kinds[place].push((livez, night.measure(service, kind, round, seconds).await?));
        }
        Ok(())
    }

    /// Each round begins with another kind, so that drift of the machine cancels.
    async fn compare(
        &mut self,
        service: &Service,
        bearers: &Bearers,
        round: usize,
        seconds: u64,
    ) -> Result<()> {
        let rate = self.one.last().map(|one| one.rate()).unwrap_or_default();
        for turn in 0..BEARERS.len() {
            let place = (round + turn) % BEARERS.len();
            let claims = bearers.measure(service, BEARERS[place].0, (round, seconds), rate).await?;
            self.bearers[place].push(claims);
        }
        Ok(())
    }

    fn report(self) {
        let livez = median(self.kinds.iter().flatten().map(|(livez, _)| *livez).chain(self.livez).collect());
        println!("\n{:<34} {:>10} {:>8} {:<9} {:>8}  goal", "", "per second", "ratio", "goal", "p99 ms");
        let row = |name: &str, rate: f64, ratio: f64, goal: &str, p99: f64, p99_goal: &str| {
            println!("{name:<34} {rate:>10.0} {ratio:>8.2} {goal:<9} {p99:>8.1}  {p99_goal}");
        };
        println!("{:<34} {livez:>10.0}", "GET /livez");
        let of = |rounds: &[[Claims; 2]], figure: fn(&[Claims; 2]) -> f64| {
            median(rounds.iter().map(figure).collect())
        };
        let one_rate = median(self.one.iter().map(|one| one.rate()).collect());
        let one_p99 = median(self.one.iter().map(|one| one.p99_ms).collect());
        row("issues, one campaign, to livez", one_rate, one_rate / livez, "", one_p99, "");
        for (rounds, (count, goal)) in self.many.iter().zip(CAMPAIGNS) {
            let name = format!("issues, {count} campaigns, to one");
            let (rate, ratio) =
                (of(rounds, |[_, many]| many.rate()), of(rounds, |[one, many]| many.rate() / one.rate()));
            let (p99, p99_goal) =
                (of(rounds, |[_, many]| many.p99_ms), 2.0 * of(rounds, |[one, _]| one.p99_ms));
            row(&name, rate, ratio, goal, p99, &format!("<= {p99_goal:.1}"));
        }
        for (rounds, (kind, goal)) in self.bearers.iter().zip(BEARERS) {
            let pairs = rounds.iter().zip(&self.bearers[0]);
            let ratio = median(pairs.map(|(claims, admin)| claims.rate() / admin.rate()).collect());
            let rate = median(rounds.iter().map(|claims| claims.rate()).collect());
            let p99 = median(rounds.iter().map(|claims| claims.p99_ms).collect());
            row(&format!("issues, {kind:?}, to AdminToken"), rate, ratio, goal, p99, "");
        }
        let quiet = |figure: fn(&[Answers; 2]) -> f64| median(self.beside.iter().map(figure).collect());
        let p99_goal = format!("<= {:.1}", 2.0 * quiet(|[hot, _]| hot.p99_ms));
        let (rate, p99) = (quiet(|[_, quiet]| quiet.rate()), quiet(|[_, quiet]| quiet.p99_ms));
        let ratio = quiet(|[hot, quiet]| quiet.p99_ms / hot.p99_ms);
        row(&format!("claims, {QUIET} quiet beside a hot one"), rate, ratio, QUIET_GOAL, p99, &p99_goal);
        for (rounds, (kind, goal, p99_goal)) in self.kinds.iter().zip(KINDS) {
            let of = |figure: fn(&(f64, Answers)) -> f64| median(rounds.iter().map(figure).collect());
            let ratio = of(|(livez, answers)| answers.rate() / livez);
            let (rate, p99) = (of(|(_, answers)| answers.rate()), of(|(_, answers)| answers.p99_ms));
            row(&format!("{kind:?}, to livez"), rate, ratio, goal, p99, p99_goal);
        }
        let cpu = self.cpu.map(median);
        println!("\nCPU us per issue, one campaign");
        for (server, spent) in SERVERS.iter().zip(cpu) {
            println!("{server:<34} {spent:>10.1}");
        }
        println!("{:<34} {:>10.1}", "all", cpu.iter().sum::<f64>());
    }
}
