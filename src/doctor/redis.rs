//! Redis: whether it keeps the gate, and takes writes.

use std::collections::HashMap;

use anyhow::Context as _;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use time::{Duration, OffsetDateTime};

use super::{EXAMINATION_TIME_MAX, Finding, clock};
use crate::config::Config;
use crate::connections::CONNECT_TIMEOUT;
use crate::gate::redis as seats;

const REDIS: &str = "redis";
/// It has `SMISMEMBER` and `ZRANGE … BYSCORE`.
const OLDEST: (u32, u32) = (6, 2);
/// Of `maxmemory`, in percent.
const USED_MAX: u64 = 80;

const EXPIRES_SLOWLY: &str = "A day after its campaign a gate expires: with millions of seats, Redis answers nobody \
                              meanwhile. CONFIG SET lazyfree-lazy-expire yes, and set it in redis.conf.";
const TAKES_SNAPSHOTS: &str = "One that fails stops every claim until one succeeds, though the append-only file is \
                               written. CONFIG SET save \"\", and set it in redis.conf.";

pub(super) async fn examine(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let client = seats::client(config.redis.reveal()).context("read REDIS_URL")?;
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(EXAMINATION_TIME_MAX));
    let mut redis = client.get_multiplexed_async_connection_with_config(&limits).await?;
    let info: String = redis::cmd("INFO").query_async(&mut redis).await.context("INFO")?;
    let mut findings = of_info(&info.lines().filter_map(|line| line.split_once(':')).collect());
    findings.push(setting(&mut redis, "lazyfree-lazy-expire", "yes", EXPIRES_SLOWLY).await);
    findings.push(setting(&mut redis, "save", "", TAKES_SNAPSHOTS).await);
    findings.push(clock::compare(REDIS, time(&mut redis)).await.context("TIME")?);
    Ok(findings)
}

fn of_info(info: &HashMap<&str, &str>) -> Vec<Finding> {
    let of = |field: &str| info.get(field).copied().unwrap_or("not told");
    let number = |field: &str| info.get(field).and_then(|value| value.parse::<u64>().ok());
    let version = of("redis_version");
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let parsed = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let (used, limit) = (number("used_memory").unwrap_or(0), number("maxmemory").unwrap_or(0));
    let memory =
        if limit == 0 { format!("{used} bytes, no limit") } else { format!("{used} of {limit} bytes") };
    let written = [of("aof_last_write_status"), of("rdb_last_bgsave_status")];
    vec![
        Finding::of(REDIS, "version", version)
            .bad_unless(parsed >= OLDEST, "Scripts of the gate need commands of 6.2: no claim is taken. Use 7 or newer."),
        Finding::of(REDIS, "role", of("role")).bad_unless(
            of("role") == "master",
            "A replica takes no writes: every claim is refused. Let REDIS_URL name the primary.",
        ),
        Finding::of(REDIS, "maxmemory-policy", of("maxmemory_policy")).bad_unless(
            of("maxmemory_policy") == "noeviction",
            "When memory is short it drops keys of the gate, which then has to be loaded from Postgres in the midst of \
             a rush. CONFIG SET maxmemory-policy noeviction, and set it in redis.conf.",
        ),
        Finding::of(REDIS, "memory", memory)
            .bad_unless(limit == 0 || used < limit, "No seat can be taken: every claim is refused. Raise maxmemory.")
            .warn_unless(
                limit == 0 || used < limit / 100 * USED_MAX,
                "When it is used up every claim is refused. A seat takes some 100 bytes: raise maxmemory.",
            ),
        Finding::of(REDIS, "persistence", if of("aof_enabled") == "1" { "append-only file" } else { "none, or snapshots" })
            .warn_unless(
                of("aof_enabled") == "1",
                "After a restart gates are empty or old: claims are refused until they are loaded from Postgres. \
                 CONFIG SET appendonly yes, and set it in redis.conf.",
            ),
        Finding::of(REDIS, "last write to disk", written.join(", ")).bad_unless(
            written.iter().all(|status| *status == "ok"),
            "Redis refuses writes, and with them every claim, when it cannot save (MISCONF). See its log and its disk.",
        ),
    ]
}

/// A setting that INFO does not tell.
async fn setting(
    redis: &mut MultiplexedConnection,
    name: &'static str,
    well: &'static str,
    advice: &'static str,
) -> Finding {
    match redis::cmd("CONFIG").arg("GET").arg(name).query_async::<HashMap<String, String>>(redis).await {
        Ok(values) => {
            let value = values.get(name).map_or("not known here", String::as_str);
            let shown = if value.is_empty() { "none" } else { value };
            Finding::of(REDIS, name, shown).warn_unless(value == well, advice)
        }
        Err(error) => {
            Finding::unknown(REDIS, name, error.to_string(), "Ask with a login that may CONFIG GET.")
        }
    }
}

async fn time(redis: &mut MultiplexedConnection) -> anyhow::Result<OffsetDateTime> {
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(redis).await?;
    let time = OffsetDateTime::from_unix_timestamp(seconds)?.checked_add(Duration::microseconds(micros));
    time.context("it is no time")
}
