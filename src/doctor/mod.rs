//! The doctor: looks at the three servers, and says what is not as the promises need it, why that matters
//! and what to do. It asks, and changes nothing.

mod clock;
mod finding;
mod nats;
mod postgres;
mod redis;

use std::time::Duration;

use anyhow::anyhow;
use futures_util::join;
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
