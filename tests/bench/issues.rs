//! Measures issues per second, end to end, with an outside client (wrk) on the same machine, starting with an
//! empty database. Absolute figures depend on the machine; compare the ratios:
//!
//! * issues/s ÷ `GET /livez` per second, measured with the same client before and after each segment;
//! * issues/s ÷ issues/s of the same service with batches of one;
//! * last segment ÷ first segment, also while another session holds a snapshot open;
//! * issues/s while NATS is away ÷ before, and then events drained ÷ coupons issued meanwhile.
//!
//! `BENCH_COUPONS` sets the number of coupons (1,000,000), `BENCH_SECONDS` the length of a segment (5 s),
//! `BENCH_AWAY_SECONDS` how long NATS is away (60 s).

mod load;
mod report;
mod service;
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::{Connection as _, PgConnection};
use tokio::time::sleep;

use crate::load::{Claims, Targets, claim_on, head, median, projected};
use crate::report::line;
use crate::service::{PROGRAM, Service};
use crate::support::number;

#[tokio::main]
async fn main() -> Result<()> {
    let coupons = number("BENCH_COUPONS", 1_000_000);
    let seconds = number("BENCH_SECONDS", 5);

    println!("from an empty database to {coupons} coupons, segments of {seconds} s, 256 connections");
    let alone = run(coupons, seconds, None, false).await?;
    println!("\nthe same, while another session holds a snapshot open");
    let beside_snapshot = run(coupons, seconds, None, true).await?;
    println!("\nbatches of one");
    let one_by_one = run(1, seconds, Some("1"), false).await?;
    println!("\nwithout NATS, and afterwards");
    let outage = outage(seconds, number("BENCH_AWAY_SECONDS", 60)).await?;

    report::heading();
    line("issues/s ÷ livez/s", share(&alone, |s| s.to_livez()), ">= 0.22");
    let to_one = share(&alone, |s| s.to_livez()) / share(&one_by_one, |s| s.to_livez());
    line("issues/s ÷ issues/s in batches of one (both ÷ livez/s)", to_one, ">= 8");
    line("p99 at 256 connections, ms, median of segments", share(&alone, |s| s.claims.p99_ms), "< 50");
    line("last segment ÷ first (both ÷ livez/s)", decline(&alone), "~ 1");
    line("the same while a snapshot is open", decline(&beside_snapshot), "~ 1");
    line("issues/s while NATS is away ÷ before", outage.away / outage.before, "~ 1");
    line("backlog drained/s ÷ issues/s meanwhile", outage.drained / outage.meanwhile, ">= 2");
    Ok(())
}

/// One run of claims, and livez/s around it.
#[derive(Clone, Copy, Debug)]
struct Segment {
    claims: Claims,
    /// The mean of just before and just after.
    livez: f64,
}

impl Segment {
    fn to_livez(self) -> f64 {
        self.claims.rate() / self.livez
    }
}

/// The median over the segments.
fn share(segments: &[Segment], figure: impl Fn(&Segment) -> f64) -> f64 {
    median(segments.iter().map(figure).collect())
}

fn decline(segments: &[Segment]) -> f64 {
    match segments {
        [first, .., last] => last.to_livez() / first.to_livez(),
        _ => 1.0,
    }
}

async fn run(coupons: u64, seconds: u64, batch_rows: Option<&str>, snapshot: bool) -> Result<Vec<Segment>> {
    let variables: Vec<_> = batch_rows.map(|rows| ("BATCH_ROWS", rows.to_owned())).into_iter().collect();
    let service = Service::start(Path::new(PROGRAM), &variables).await?;
    let mut holder = PgConnection::connect(&service.servers.database_url()).await?;
    if snapshot {
        sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").execute(&mut holder).await?;
    }
    println!(
        "{:>9} {:>9} {:>9} {:>7} {:>8} {:>8}",
        "coupons", "issues/s", "livez/s", "ratio", "p50 ms", "p99 ms"
    );
    let mut segments = Vec::new();
    let mut livez = service.livez().await?;
    let mut total = 0;
    while total < i64::try_from(coupons)? {
        let claims = service.claims(segments.len(), seconds).await?;
        let after = service.livez().await?;
        let segment = Segment { claims, livez: f64::midpoint(livez, after) };
        livez = after;
        total += claims.issued;
        println!(
            "{total:>9} {:>9.0} {:>9.0} {:>7.3} {:>8.1} {:>8.1}",
            claims.rate(),
            segment.livez,
            segment.to_livez(),
            claims.p50_ms,
            claims.p99_ms
        );
        segments.push(segment);
    }
    Ok(segments)
}

/// Coupons or events per second.
struct Outage {
    before: f64,
    away: f64,
    /// Events projected, from the return of NATS until the backlog was gone.
    drained: f64,
    /// Coupons issued in the same time.
    meanwhile: f64,
}

async fn outage(seconds: u64, away_seconds: u64) -> Result<Outage> {
    let mut site = Service::start(Path::new(PROGRAM), &[]).await?;
    let before = site.claims(0, seconds).await?.rate();
    let mut connection = PgConnection::connect(&site.servers.database_url()).await?;
    site.servers.nats.kill().await;
    let (head_before, started) = (head(&mut connection).await?, Instant::now());
    let claims = Targets::new([claim_on(&site.campaign)])?;
    site.wrk(away_seconds, &claims, "1").await?;
    let away = rate(head(&mut connection).await? - head_before, started);

    site.servers.nats.start().await?;
    let (from, issued_from) = (projected(&mut connection).await?, head(&mut connection).await?);
    let started = Instant::now();
    let drain = async {
        loop {
            let (done, issued) = (projected(&mut connection).await?, head(&mut connection).await?);
            // Fewer are in flight at any time under this load.
            if issued - done < 10_000 {
                return anyhow::Ok((rate(done - from, started), rate(issued - issued_from, started)));
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let load = site.wrk(away_seconds, &claims, "2");
    let (drain, load) = tokio::join!(drain, load);
    load?;
    let (drained, meanwhile) = drain?;
    println!(
        "{before:.0} issues/s before, {away:.0} while NATS was away for {away_seconds} s; then {drained:.0} \
         events/s were projected and {meanwhile:.0} coupons/s issued until the backlog was gone"
    );
    Ok(Outage { before, away, drained, meanwhile })
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn rate(events: i64, since: Instant) -> f64 {
    events as f64 / since.elapsed().as_secs_f64()
}
