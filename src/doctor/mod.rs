//! The doctor: looks at the three servers, and says what is not as the promises need it, why that matters
//! and what to do. It asks, and changes nothing.

mod clock;
mod finding;
mod nats;
mod postgres;
mod redis;

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::{anyhow, bail};
use futures_util::join;
use serde_json::json;
use tokio::time::timeout;

pub use self::finding::{Finding, Health};
use crate::config::{Config, ServerUrl};

/// For all that one server is asked.
const EXAMINATION_TIME_MAX: Duration = Duration::from_secs(10);

/// Examines the three servers. What cannot be asked is a finding too. Transactions of Postgres that have been
/// open for longer than `open_max` are named.
pub async fn examine(config: &Config, open_max: Duration) -> Vec<Finding> {
    let (redis, postgres, nats) = join!(
        of_server("redis", &config.redis, redis::examine(config)),
        of_server("postgres", &config.database, postgres::examine(config, open_max)),
        of_server("nats", &config.nats, nats::examine(config)),
    );
    [redis, postgres, nats].concat()
}

/// Prints what [`examine`] finds, and answers whether nothing is bad.
///
/// # Errors
/// When nothing is bad, and something could not be told.
pub async fn report(config: &Config, open_max: Duration, json: bool) -> anyhow::Result<bool> {
    let findings = examine(config, open_max).await;
    let number = |health| findings.iter().filter(|finding| finding.health == health).count();
    let (bad, unknown, warned) = (number(Health::Bad), number(Health::Unknown), number(Health::Warn));
    // Not println!, which panics when nobody reads on (`coupon doctor | head`).
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", json!({ "healthy": bad + unknown == 0, "findings": findings }))?;
    } else {
        findings.iter().try_for_each(|finding| writeln!(out, "{finding}"))?;
        let well = number(Health::Ok);
        writeln!(out, "{bad} bad, {unknown} unknown, {warned} to know of, {well} well")?;
    }
    if bad == 0 && unknown > 0 {
        bail!("{unknown} of {} checks could not tell", findings.len());
    }
    Ok(bad == 0)
}

async fn of_server(
    name: &'static str,
    url: &ServerUrl,
    examination: impl Future<Output = anyhow::Result<Vec<Finding>>>,
) -> Vec<Finding> {
    let result = timeout(EXAMINATION_TIME_MAX, examination).await;
    result.unwrap_or_else(|_| Err(anyhow!("no answer within {EXAMINATION_TIME_MAX:?}"))).unwrap_or_else(
        |error| {
            let advice = format!("See that it runs at {url}, and lets this login in.");
            vec![Finding::unknown(name, "answers", format!("{error:#}"), advice)]
        },
    )
}
