//! Checks of Redis: whether it keeps the gate, and takes writes.

use std::collections::HashMap;

use anyhow::Context as _;
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use time::{Duration, OffsetDateTime};

use super::clock;
use super::finding::Finding;
use crate::config::Config;
use crate::connections::{self, CONNECT_TIMEOUT};
use crate::gate::connection::{Cluster, Connection, SLOTS};

const REDIS: &str = "redis";
/// The first version with `SMISMEMBER` and `ZRANGE … BYSCORE`.
const OLDEST: (u32, u32) = (6, 2);
/// The share of `maxmemory` from which on the doctor warns, in percent.
const USED_MAX: u64 = 80;

const EXPIRES_SLOWLY: &str = "A gate expires a day after its campaign, and Redis answers nobody while it frees \
                              millions of seats. Set lazyfree-lazy-expire yes (CONFIG SET, and redis.conf).";
const TAKES_SNAPSHOTS: &str = "After a snapshot that fails, every claim is refused until one succeeds, even if the \
                               append-only file is written. Set save \"\" (CONFIG SET, and redis.conf).";

const STOPS_AS_A_WHOLE: &str = "While a primary is away and no replica has taken over, every node refuses the claims of all \
                                campaigns. Set cluster-require-full-coverage no (CONFIG SET, and redis.conf).";

const IS_MOVING: &str = "As long as the keys of a campaign are on two nodes, its claims are refused. Wait for the move to \
                         end. If nobody moves these slots, run `redis-cli --cluster fix`.";

pub(super) async fn examine(config: &Config) -> anyhow::Result<Vec<Finding>> {
    match connections::redis(config)?.connect(CONNECT_TIMEOUT).await? {
        Connection::One(mut redis) => of_server(&mut redis).await,
        Connection::Cluster(cluster) => Ok(of_cluster(&cluster).await),
    }
}

/// Checks each primary, which each finding names; and whether every slot is served, and by more than one server.
async fn of_cluster(cluster: &Cluster) -> Vec<Finding> {
    let slots = cluster.slots();
    let unserved = slots.unserved();
    let alone: Vec<String> = slots.alone().map(ToString::to_string).collect();
    let mut findings = vec![
        Finding::of(REDIS, "slots of the Cluster", format!("{unserved} of {SLOTS} without a primary"))
            .bad_unless(
                unserved == 0,
                "Claims of the campaigns in these slots are refused. Run `redis-cli --cluster check`.",
            ),
        Finding::of(
            REDIS,
            "primaries without a replica",
            if alone.is_empty() { "none".to_owned() } else { alone.join(", ") },
        )
        .warn_unless(
            alone.is_empty(),
            "While such a primary is away, claims of its campaigns are refused. Add a replica to each.",
        ),
    ];
    let examined = cluster.each().await.into_iter().map(|(node, connection)| async move {
        let found = match connection {
            Ok(mut redis) => {
                let found = of_server(&mut redis).await;
                let covered = setting(&mut redis, "cluster-require-full-coverage", "no", STOPS_AS_A_WHOLE).await;
                let moving = moving(&mut redis).await;
                found.map(|mut found| {
                    found.extend([covered, moving]);
                    found
                })
            }
            Err(error) => Err(error.into()),
        };
        let found = found.unwrap_or_else(|error| {
            let advice = "Claims of its campaigns are refused. Check that it runs, and that this host reaches it at this address.";
            vec![Finding::unknown(REDIS, "answers", format!("{error:#}"), advice)]
        });
        found.into_iter().map(move |finding| Finding { check: format!("{node} {}", finding.check), ..finding })
    });
    findings.extend(join_all(examined).await.into_iter().flatten());
    findings
}

/// The slots that a node gives away or takes over: `CLUSTER NODES` lists them in brackets in the node's own line.
async fn moving(redis: &mut MultiplexedConnection) -> Finding {
    const CHECK: &str = "slots being moved";
    match redis::cmd("CLUSTER").arg("NODES").query_async::<String>(redis).await {
        Ok(nodes) => {
            let own = nodes.lines().find(|line| line.contains("myself")).unwrap_or_default();
            let moving: Vec<&str> =
                own.split(' ').filter_map(|word| word.strip_prefix('[')?.split('-').next()).collect();
            let shown = if moving.is_empty() { "none".to_owned() } else { moving.join(", ") };
            Finding::of(REDIS, CHECK, shown).warn_unless(moving.is_empty(), IS_MOVING)
        }
        Err(error) => {
            Finding::unknown(REDIS, CHECK, error.to_string(), "Use a login that may CLUSTER NODES.")
        }
    }
}

async fn of_server(redis: &mut MultiplexedConnection) -> anyhow::Result<Vec<Finding>> {
    let info: String = redis::cmd("INFO").query_async(redis).await.context("INFO")?;
    let mut findings = of_info(&info.lines().filter_map(|line| line.split_once(':')).collect());
    findings.push(setting(redis, "lazyfree-lazy-expire", "yes", EXPIRES_SLOWLY).await);
    findings.push(setting(redis, "save", "", TAKES_SNAPSHOTS).await);
    findings.push(clock::compare(REDIS, time(redis)).await.context("TIME")?);
    Ok(findings)
}

fn of_info(info: &HashMap<&str, &str>) -> Vec<Finding> {
    let of = |field: &str| info.get(field).copied().unwrap_or("unknown");
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
            .bad_unless(parsed >= OLDEST, "Scripts of the gate need commands of 6.2, so every claim is refused. Use 7 or newer."),
        Finding::of(REDIS, "role", of("role")).bad_unless(
            of("role") == "master",
            "A replica takes no writes, so every claim is refused. Let REDIS_URL name the primary.",
        ),
        Finding::of(REDIS, "maxmemory-policy", of("maxmemory_policy")).bad_unless(
            of("maxmemory_policy") == "noeviction",
            "When memory is short, Redis drops keys of the gate, and claims are refused while it is loaded again from \
             Postgres. Set maxmemory-policy noeviction (CONFIG SET, and redis.conf).",
        ),
        Finding::of(REDIS, "memory", memory)
            .bad_unless(limit == 0 || used < limit, "No seat can be taken, so every claim is refused. Raise maxmemory.")
            .warn_unless(
                limit == 0 || used < limit / 100 * USED_MAX,
                "When it is used up, every claim is refused. A seat takes about 100 bytes. Raise maxmemory.",
            ),
        Finding::of(REDIS, "persistence", if of("aof_enabled") == "1" { "append-only file" } else { "none, or snapshots" })
            .warn_unless(
                of("aof_enabled") == "1",
                "After a restart the gates are empty or old, and claims are refused until they are loaded from Postgres. \
                 Set appendonly yes (CONFIG SET, and redis.conf).",
            ),
        Finding::of(REDIS, "last write to disk", written.join(", ")).bad_unless(
            written.iter().all(|status| *status == "ok"),
            "Redis refuses writes, and so every claim, when it cannot save (MISCONF). Check its log and its disk.",
        ),
    ]
}

/// A setting that INFO does not hold.
async fn setting(
    redis: &mut MultiplexedConnection,
    name: &'static str,
    well: &'static str,
    advice: &'static str,
) -> Finding {
    match redis::cmd("CONFIG").arg("GET").arg(name).query_async::<HashMap<String, String>>(redis).await {
        Ok(values) => {
            let value = values.get(name).map_or("unknown to this version", String::as_str);
            let shown = if value.is_empty() { "none" } else { value };
            Finding::of(REDIS, name, shown).warn_unless(value == well, advice)
        }
        Err(error) => Finding::unknown(REDIS, name, error.to_string(), "Use a login that may CONFIG GET."),
    }
}

async fn time(redis: &mut MultiplexedConnection) -> anyhow::Result<OffsetDateTime> {
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(redis).await?;
    let time = OffsetDateTime::from_unix_timestamp(seconds)?.checked_add(Duration::microseconds(micros));
    time.context("the time is out of range")
}
