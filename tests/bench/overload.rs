//! Offers ten times as many claims as the service can serve, for half a minute, and measures how many it serves,
//! how fast, and at what cost in memory. The crowd runs on the same machine, so compare the ratios to what the same
//! crowd gets before and after, when it claims over 256 connections as fast as it is answered.
//!
//! `BENCH_SECONDS` sets how long users arrive (30 s), `BENCH_CONNECTIONS` the number of connections (9,000; each
//! takes an open file in this process and one in the service).

mod crowd;
mod report;
mod service;
mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use coupon_dispatcher::client::Client;
use coupon_dispatcher::config::Secret;
use sqlx::{Connection as _, PgConnection};
use tokio::time::sleep;

use crate::crowd::{Crowd, Fates};
use crate::report::line;
use crate::service::{PROGRAM, Service, TOKEN};
use crate::support::number;

const CALM: Duration = Duration::from_secs(8);
const CALM_CONNECTIONS: usize = 256;
const TIMES: f64 = 10.0;

#[tokio::main]
async fn main() -> Result<()> {
    let lasts = Duration::from_secs(number("BENCH_SECONDS", 30));
    let connections = usize::try_from(number("BENCH_CONNECTIONS", 9_000))?;
    let service = Service::start(Path::new(PROGRAM), &[]).await?;
    let crowd = |name, connections, rate, lasts| Crowd {
        address: service.address,
        campaign: service.campaign.clone(),
        name,
        connections,
        rate,
        lasts,
    };
    let calm = async |name| tell(name, crowd(name, CALM_CONNECTIONS, None, CALM).run().await);
    println!(
        "{:<8}{:>10}{:>10}{:>10}{:>10}{:>8}{:>8}{:>8}",
        "", "offered/s", "issued/s", "refused/s", "gone/s", "p50 ms", "p99 ms", "max ms"
    );
    let first = calm("first").await?; // makes the plans, and reads the pages into memory
    let before = calm("before").await?;
    let resident_mb = status_mb(&service, "VmRSS")?;
    let rate = before.goodput() * TIMES;
    let rush = tokio::spawn(crowd("rush", connections, Some(rate), lasts).run());
    let (health, unready) = health(&service, || rush.is_finished()).await;
    let rush = tell("rush", rush.await?)?;
    let peak_mb = status_mb(&service, "VmHWM")?;
    let after = calm("after").await?;
    let issued: usize = [&first, &before, &rush, &after].iter().map(|fates| fates.issued.len()).sum();
    let mut connection = PgConnection::connect(&service.servers.database_url()).await?;
    let coupons: i64 = sqlx::query_scalar("SELECT count(*) FROM coupons").fetch_one(&mut connection).await?;
    ensure!(coupons == issued as i64, "{issued} claims were answered 201, and there are {coupons} coupons");

    let most = f64::midpoint(before.goodput(), after.goodput());
    report::heading();
    line("offered ÷ what can be served", rush.per_second(rush.offered()) / most, "~ 10");
    line("issued ÷ what can be served", rush.goodput() / most, ">= 0.7");
    line("issued afterwards ÷ before", after.goodput() / before.goodput(), "~ 1");
    line("issued, p99, ms", quantile_ms(&rush.issued, 99), "< 2000");
    line("refused, p50, ms", quantile_ms(&rush.refused, 50), "");
    line("/readyz answered not ready, times", f64::from(unready), "0");
    line("/readyz, p99, ms", quantile_ms(&health, 99), "< 1000");
    line("memory, peak minus before, MB", peak_mb - resident_mb, "< 512");
    Ok(())
}

/// Asks `/readyz` every 100 ms. Returns the times of the answers, the shortest first, and how many answers were
/// not ready.
async fn health(service: &Service, is_over: impl Fn() -> bool) -> (Vec<Duration>, u32) {
    let client = Client::new(&format!("http://{}", service.address), Secret::from(TOKEN.to_owned()));
    let (mut took, mut unready) = (Vec::new(), 0);
    while !is_over() {
        let asked = Instant::now();
        unready += u32::from(client.get("/readyz").await.is_err());
        took.push(asked.elapsed());
        sleep(Duration::from_millis(100)).await;
    }
    took.sort_unstable();
    (took, unready)
}

fn tell(name: &str, fates: Fates) -> Result<Fates> {
    println!(
        "{name:<8}{:>10.0}{:>10.0}{:>10.0}{:>10.0}{:>8.1}{:>8.1}{:>8.1}",
        fates.per_second(fates.offered()),
        fates.goodput(),
        fates.per_second(fates.refused.len()),
        fates.per_second(fates.gone_away),
        quantile_ms(&fates.issued, 50),
        quantile_ms(&fates.issued, 99),
        quantile_ms(&fates.issued, 100),
    );
    ensure!(fates.failed == 0, "{} claims failed", fates.failed);
    Ok(fates)
}

/// The time that `percent` of the sorted times do not exceed, in ms.
fn quantile_ms(times: &[Duration], percent: usize) -> f64 {
    let last = times.len().saturating_sub(1);
    times.get(last * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
}

/// A size from `/proc/<pid>/status` of the service, in MB.
fn status_mb(service: &Service, name: &str) -> Result<f64> {
    let id = service.process.id().context("the service has ended")?;
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let kb = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .context("/proc/<pid>/status has no such size")?;
    Ok(kb.trim().trim_end_matches(" kB").parse::<f64>()? / 1_024.0)
}
