//! The doctor: checks how the three servers are set up, and tells what the guarantees need otherwise, why that matters
//! and what to do. It only reads.

mod clock;
mod finding;
mod nats;
mod postgres;
mod redis;
mod shards;
mod tokens;

use std::fmt::Display;
use std::time::Duration;

use anyhow::anyhow;
use futures_util::join;
use tokio::time::timeout;

pub use self::finding::{Finding, Health};
use crate::config::Config;
use crate::connections::POSTGRES_CA;
use crate::tls::explained;

/// For all the checks of one server: an operator waits for it.
const EXAMINATION_TIME_MAX: Duration = Duration::from_secs(10);

/// Examines the three servers at once, and what becomes of the events between them. A server that does not answer is a finding too. Transactions of Postgres that
/// have been open for longer than `open_max` are a warning, which names them.
pub async fn examine(config: &Config, open_max: Duration) -> Vec<Finding> {
    let (redis, postgres, nats, events) = join!(
        of_server("redis", &config.redis, redis::examine(config)),
        of_server("postgres", &config.database, postgres::examine(config, open_max)),
        of_server("nats", &config.nats, nats::examine(config)),
        of_server("events", &config.database, shards::examine(config)),
    );
    [redis, postgres, nats, events].concat()
}

async fn of_server(
    name: &'static str,
    url: impl Display,
    examination: impl Future<Output = anyhow::Result<Vec<Finding>>>,
) -> Vec<Finding> {
    let result = timeout(EXAMINATION_TIME_MAX, examination).await;
    result.unwrap_or_else(|_| Err(anyhow!("no answer within {EXAMINATION_TIME_MAX:?}"))).unwrap_or_else(
        |error| {
            let advice = format!("Check that it runs at {url} and accepts this login.");
            let error = if name == "postgres" { explained(error, POSTGRES_CA) } else { error };
            vec![Finding::unknown(name, "answers", format!("{error:#}"), advice)]
        },
    )
}
