//! Load on a service by an outside client, wrk, with 256 connections unless its targets have another number.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use sqlx::{Connection as _, PgConnection};
use tokio::process::Command;

use crate::service::{Service, TOKEN};
use crate::support::wait_until;

const CONNECTIONS: usize = 256;
const LIVEZ_SECONDS: u64 = 2;
/// From the first target of a run to that of the next.
const STRIDE: usize = 3_571;
const PROJECTED: &str = "SELECT least(projection_position('wallet', 0::smallint), projection_position('settlement', 0::smallint))";

/// What clients ask for: a file of targets, as `load.lua` reads them.
#[derive(Debug)]
pub(crate) struct Targets {
    file: PathBuf,
    /// Connections of the client.
    pub(crate) connections: usize,
}

impl Targets {
    /// Each target is a method, a path, a user if it is always the same, and behind the user a token if it is another.
    pub(crate) fn new(targets: impl IntoIterator<Item = String>) -> Result<Self> {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let name = format!("targets-{}-{}", std::process::id(), FILES.fetch_add(1, Ordering::Relaxed));
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut lines = targets.into_iter().collect::<Vec<_>>().join("\n");
        lines.push('\n');
        fs::write(&file, lines)?;
        Ok(Self { file, connections: CONNECTIONS })
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.file));
    }
}

/// A claim on a campaign.
pub(crate) fn claim_on(campaign: &str) -> String {
    format!("POST /v1/campaigns/{campaign}/coupons")
}

/// The answers of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answers {
    pub(crate) count: f64,
    pub(crate) seconds: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Answers with a status above 399.
    pub(crate) refused: f64,
}

impl Answers {
    pub(crate) fn rate(self) -> f64 {
        self.count / self.seconds
    }
}

/// The result of one run of claims.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claims {
    /// Coupons.
    pub(crate) issued: i64,
    /// From the first claim until every issue was projected.
    seconds: f64,
    #[allow(dead_code, reason = "only one benchmark prints it")]
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Claims {
    /// Coupons per second, end to end.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn rate(self) -> f64 {
        self.issued as f64 / self.seconds
    }
}

impl Service {
    /// Requests per second of `GET /livez`.
    pub(crate) async fn livez(&self) -> Result<f64> {
        let targets = Targets::new(["GET /livez".to_owned()])?;
        Ok(self.wrk(LIVEZ_SECONDS, &targets, "").await?.rate())
    }

    /// Claims on the campaign of the service for `seconds`. See [`Service::claims_of`].
    pub(crate) async fn claims(&self, run: usize, seconds: u64) -> Result<Claims> {
        self.claims_of(&Targets::new([claim_on(&self.campaign)])?, run, seconds).await
    }

    /// Claims for `seconds`, each by a user of its own, then waits until all are projected. `run` must differ
    /// from those of earlier runs: it is part of the users' names.
    pub(crate) async fn claims_of(&self, targets: &Targets, run: usize, seconds: u64) -> Result<Claims> {
        let mut connection = PgConnection::connect(&self.servers.database_url()).await?;
        let before = head(&mut connection).await?;
        let started = Instant::now();
        let answers = self.wrk(seconds, targets, &run.to_string()).await?;
        ensure!(answers.refused == 0.0, "{} of {} claims were refused", answers.refused, answers.count);
        let issued = head(&mut connection).await? - before;
        wait_until(async || Ok(projected(&mut connection).await? >= before + issued)).await?;
        let seconds = started.elapsed().as_secs_f64();
        Ok(Claims { issued, seconds, p50_ms: answers.p50_ms, p99_ms: answers.p99_ms })
    }

    /// Runs wrk. `first` is part of the names of new users. Each run begins at another target.
    pub(crate) async fn wrk(&self, seconds: u64, targets: &Targets, first: &str) -> Result<Answers> {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let start = RUNS.fetch_add(1, Ordering::Relaxed) * STRIDE;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/load.lua");
        let output = Command::new("wrk")
            .args(["-t2", &format!("-c{}", targets.connections), &format!("-d{seconds}"), "-s"])
            .arg(script)
            .arg(format!("http://{}", self.address))
            .env("TOKEN", TOKEN)
            .env("TARGETS", &targets.file)
            .env("FIRST", first)
            .env("START", start.to_string())
            .stderr(Stdio::inherit())
            .output()
            .await
            .context("run wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let figures =
            text.lines().find_map(|line| line.strip_prefix("RESULT ")).context("wrk printed no result")?;
        let figures: Vec<f64> = figures.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [count, seconds, p50_ms, p99_ms, _, refused, failed] = figures[..] else {
            bail!("wrk printed {figures:?}")
        };
        ensure!(failed == 0.0, "{failed} of {count} requests had no answer");
        Ok(Answers { count, seconds, p50_ms, p99_ms, refused })
    }
}

/// The position of the outbox's last event.
pub(crate) async fn head(connection: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT outbox_head(0::smallint)").fetch_one(connection).await?)
}

/// The position that every projection has reached.
pub(crate) async fn projected(connection: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query_scalar(PROJECTED).fetch_one(connection).await?)
}

/// The middle one of `values`, the upper of two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
