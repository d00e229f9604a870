//! Issues a second, end to end, with an outside client (wrk), everything on one machine, from an
//! empty database on. Figures of one machine mean little; their ratios are what counts:
//!
//! * to the rate of `GET /livez`, measured with the same client before and after each segment;
//! * to the same service with batches of one;
//! * of the last segment to the first, also while another session holds a snapshot open;
//! * while NATS is away to before, and of the drain of the backlog to what is issued meanwhile.
//!
//! `BENCH_COUPONS` says how many coupons (1,000,000), `BENCH_SECONDS` how long a segment is (5),
//! `BENCH_AWAY_SECONDS` how long NATS is away (60).

mod service;
mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sqlx::{Connection as _, PgConnection};
use tokio::process::Command;
use tokio::time::sleep;

use crate::service::{Service, TOKEN};
use crate::support::{line, number, wait_until};

const CONNECTIONS: &str = "-c256";
const LIVEZ_SECONDS: u64 = 2;

#[tokio::main]
async fn main() -> Result<()> {
    let coupons = number("BENCH_COUPONS", 1_000_000);
    let seconds = number("BENCH_SECONDS", 5);

    println!("from an empty database to {coupons} coupons, {seconds} s a segment, 256 connections");
    let alone = run(coupons, seconds, None, false).await?;
    println!("\nthe same, while another session holds a snapshot open");
    let beside_snapshot = run(coupons, seconds, None, true).await?;
    println!("\nbatches of one");
    let one_by_one = run(1, seconds, Some("1"), false).await?;
    println!("\nwithout NATS, and behind it");
    let outage = outage(seconds, number("BENCH_AWAY_SECONDS", 60)).await?;

    support::heading();
    line("issues/s to livez/s", share(&alone, |s| s.to_livez()), ">= 0.22");
    let to_one = share(&alone, |s| s.to_livez()) / share(&one_by_one, |s| s.to_livez());
    line("issues/s to issues/s in batches of one (both to livez)", to_one, ">= 8");
    line("p99 at 256 connections, ms, median of segments", share(&alone, |s| s.p99_ms), "< 50");
    line("last segment to first (both to livez)", decline(&alone), "~ 1");
    line("the same beside a snapshot", decline(&beside_snapshot), "~ 1");
    line("issues/s while NATS is away, to before", outage.away / outage.before, "~ 1");
    line("backlog drained/s to issues/s meanwhile", outage.drained / outage.meanwhile, ">= 2");
    Ok(())
}

/// What one run of wrk came to.
#[derive(Clone, Copy, Debug)]
struct Segment {
    issued: i64,
    /// Until all were projected.
    seconds: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// The mean of just before and just after.
    livez: f64,
}

impl Segment {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn rate(self) -> f64 {
        self.issued as f64 / self.seconds
    }

    fn to_livez(self) -> f64 {
        self.rate() / self.livez
    }
}

/// The median over the segments.
fn share(segments: &[Segment], figure: impl Fn(&Segment) -> f64) -> f64 {
    let mut figures: Vec<f64> = segments.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

fn decline(segments: &[Segment]) -> f64 {
    match segments {
        [first, .., last] => last.to_livez() / first.to_livez(),
        _ => 1.0,
    }
}

async fn run(coupons: u64, seconds: u64, batch_rows: Option<&str>, snapshot: bool) -> Result<Vec<Segment>> {
    let service = Service::start(batch_rows).await?;
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
        let mut segment = service.claims(segments.len(), seconds).await?;
        let after = service.livez().await?;
        segment.livez = f64::midpoint(livez, after);
        livez = after;
        total += segment.issued;
        println!(
            "{total:>9} {:>9.0} {:>9.0} {:>7.3} {:>8.1} {:>8.1}",
            segment.rate(),
            segment.livez,
            segment.to_livez(),
            segment.p50_ms,
            segment.p99_ms
        );
        segments.push(segment);
    }
    Ok(segments)
}

/// Events a second.
struct Outage {
    before: f64,
    away: f64,
    /// Projected, from the return of NATS until nothing was left behind.
    drained: f64,
    /// Issued in the same time.
    meanwhile: f64,
}

async fn outage(seconds: u64, away_seconds: u64) -> Result<Outage> {
    let mut site = Service::start(None).await?;
    let before = site.claims(0, seconds).await?.rate();
    let mut connection = PgConnection::connect(&site.servers.database_url()).await?;
    site.servers.nats.kill().await;
    let (head_before, started) = (head(&mut connection).await?, Instant::now());
    site.wrk(away_seconds, Some(1)).await?;
    let away = rate(head(&mut connection).await? - head_before, started);

    site.servers.nats.start().await?;
    let (from, issued_from) = (projected(&mut connection).await?, head(&mut connection).await?);
    let started = Instant::now();
    let drain = async {
        loop {
            let (done, issued) = (projected(&mut connection).await?, head(&mut connection).await?);
            // What is on its way at any time.
            if issued - done < 10_000 {
                return anyhow::Ok((rate(done - from, started), rate(issued - issued_from, started)));
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let load = site.wrk(away_seconds, Some(2));
    let (drain, load) = tokio::join!(drain, load);
    load?;
    let (drained, meanwhile) = drain?;
    println!(
        "{before:.0} issues/s before, {away:.0} while NATS was away for {away_seconds} s; then {drained:.0} \
         events/s projected and {meanwhile:.0} issued, until none were left behind"
    );
    Ok(Outage { before, away, drained, meanwhile })
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn rate(events: i64, since: Instant) -> f64 {
    events as f64 / since.elapsed().as_secs_f64()
}

impl Service {
    /// Requests a second.
    async fn livez(&self) -> Result<f64> {
        let result = self.wrk(LIVEZ_SECONDS, None).await?;
        Ok(result[0] / result[1])
    }

    /// Claims of unique users, for so long; timed until all are projected.
    async fn claims(&self, number: usize, seconds: u64) -> Result<Segment> {
        let mut connection = PgConnection::connect(&self.servers.database_url()).await?;
        let before = head(&mut connection).await?;
        let started = Instant::now();
        let result = self.wrk(seconds, Some(number)).await?;
        ensure!(result[5] == 0.0, "{} of {} claims were refused", result[5], result[0]);
        let issued = head(&mut connection).await? - before;
        wait_until(async || Ok(projected(&mut connection).await? >= before + issued)).await?;
        let seconds = started.elapsed().as_secs_f64();
        Ok(Segment { issued, seconds, p50_ms: result[2], p99_ms: result[3], livez: 0.0 })
    }

    /// The figures that the script prints at the end.
    async fn wrk(&self, seconds: u64, claims: Option<usize>) -> Result<Vec<f64>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/load.lua");
        let output = Command::new("wrk")
            .args(["-t2", CONNECTIONS, &format!("-d{seconds}"), "-s"])
            .arg(script)
            .arg(format!("http://{}", self.address))
            .env("TOKEN", TOKEN)
            .envs(
                claims
                    .map(|number| [("CAMPAIGN", self.campaign.clone()), ("FIRST", number.to_string())])
                    .into_iter()
                    .flatten(),
            )
            .stderr(Stdio::inherit())
            .output()
            .await
            .context("run wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let figures =
            text.lines().find_map(|line| line.strip_prefix("RESULT ")).context("wrk printed no result")?;
        figures.split(' ').map(|figure| Ok(figure.parse()?)).collect()
    }
}

async fn head(connection: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT outbox_head(0::smallint)").fetch_one(connection).await?)
}

async fn projected(connection: &mut PgConnection) -> Result<i64> {
    let statement = "SELECT least(projection_position('wallet', 0::smallint), projection_position('settlement', 0::smallint))";
    Ok(sqlx::query_scalar(statement).fetch_one(connection).await?)
}
