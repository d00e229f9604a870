//! Load on a service by an outside client, wrk, with 256 connections.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use sqlx::{Connection as _, PgConnection};
use tokio::process::Command;

use crate::service::{Service, TOKEN};
use crate::support::wait_until;

const CONNECTIONS: &str = "-c256";
const LIVEZ_SECONDS: u64 = 2;
const PROJECTED: &str = "SELECT least(projection_position('wallet', 0::smallint), projection_position('settlement', 0::smallint))";

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
        let result = self.wrk(LIVEZ_SECONDS, None).await?;
        Ok(result[0] / result[1])
    }

    /// Claims for `seconds`, each by a user of its own, then waits until all are projected. `run` must differ
    /// from those of earlier runs: it is part of the users' names.
    pub(crate) async fn claims(&self, run: usize, seconds: u64) -> Result<Claims> {
        let mut connection = PgConnection::connect(&self.servers.database_url()).await?;
        let before = head(&mut connection).await?;
        let started = Instant::now();
        let result = self.wrk(seconds, Some(run)).await?;
        ensure!(result[5] == 0.0, "{} of {} claims were refused", result[5], result[0]);
        let issued = head(&mut connection).await? - before;
        wait_until(async || Ok(projected(&mut connection).await? >= before + issued)).await?;
        let seconds = started.elapsed().as_secs_f64();
        Ok(Claims { issued, seconds, p50_ms: result[2], p99_ms: result[3] })
    }

    /// Runs wrk with claims, or with `GET /livez` if `claims` is none, and returns what `load.lua` prints:
    /// requests, seconds, p50, p99 and maximum in ms, errors.
    pub(crate) async fn wrk(&self, seconds: u64, claims: Option<usize>) -> Result<Vec<f64>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/load.lua");
        let output = Command::new("wrk")
            .args(["-t2", CONNECTIONS, &format!("-d{seconds}"), "-s"])
            .arg(script)
            .arg(format!("http://{}", self.address))
            .env("TOKEN", TOKEN)
            .envs(
                claims
                    .map(|run| [("CAMPAIGN", self.campaign.clone()), ("FIRST", run.to_string())])
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
