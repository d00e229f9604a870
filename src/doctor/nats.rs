//! NATS: whether `JetStream` keeps what it is given, as the relay needs it.

use anyhow::Context as _;
use async_nats::jetstream::stream::{Config as Stream, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, context::RequestErrorKind};
use outbox_relay::{Shard, stream};
use serde::Deserialize;
use serde_json::json;

use super::Finding;
use crate::config::Config;
use crate::connections::{Patience, connect_nats};
use crate::event::OUTLET;

const NATS: &str = "nats";
/// Of a limit, in percent.
const USED_MAX: u64 = 80;

/// What the server says of our account. (The crate's own wants fields that 2.9 does not send.)
#[derive(Deserialize)]
struct Account {
    #[serde(default)]
    storage: u64,
    #[serde(default)]
    limits: Limits,
    error: Option<Refusal>,
}

#[derive(Default, Deserialize)]
struct Limits {
    /// In bytes; 0 and less is none.
    max_storage: i64,
}

#[derive(Deserialize)]
struct Refusal {
    description: String,
}

pub(super) async fn examine(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let nats = connect_nats(config, Patience::None).await?;
    let mut findings = vec![version(&nats.server_info().version, config.replicas)];
    match jetstream::new(nats.clone()).request("INFO", &json!({})).await {
        Ok(Account { storage: used, limits, error: None }) => findings.push(storage(used, &limits)),
        Err(error) if error.kind() != RequestErrorKind::NoResponders => {
            let advice = "Ask with a login that may ask $JS.API.INFO and $JS.API.STREAM.INFO.>.";
            findings.push(Finding::unknown(NATS, "JetStream", error.to_string(), advice));
            return Ok(findings);
        }
        missing => {
            let error = missing.ok().and_then(|account| account.error);
            let found = error.map_or_else(|| "not there".to_owned(), |error| error.description);
            findings.push(Finding::of(NATS, "JetStream", found).bad_unless(
                false,
                "Nothing is published; the outbox keeps it. Enable it (`jetstream {}` in nats-server.conf) and for \
                 the account of this login.",
            ));
            return Ok(findings);
        }
    }
    for shard in (0..config.shards).map(Shard) {
        let name = OUTLET.stream_of(shard);
        match stream::existing(&nats, &name).await.context("read the streams")? {
            Some(stream) => findings.extend(of_stream(stream.cached_info(), shard, config.replicas)),
            None => findings.push(Finding::of(NATS, name, "not there").warn_unless(
                false,
                "The relay makes it when it starts; if it was there before, see /readyz of the relay.",
            )),
        }
    }
    Ok(findings)
}

fn version(version: &str, replicas: usize) -> Finding {
    let mut parts = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    let parsed: (u32, u32, u32) = (part(), part(), part());
    Finding::of(NATS, "version", version)
        .warn_unless(
            parsed >= (2, 10, 0),
            "It has no sync_interval: a power cut takes the messages of up to a minute, which the relay publishes \
             again; and a stream that is deleted when the outbox no longer holds all of it takes a new epoch. Use \
             2.10 or newer, with sync_interval: always.",
        )
        .warn_unless(
            replicas == 1 || !((2, 10, 14)..(2, 11, 0)).contains(&parsed),
            "With replicas it may call a message a duplicate that it does not have; the relay finds out and waits. \
             Use 2.11 or newer.",
        )
}

fn storage(used: u64, limits: &Limits) -> Finding {
    let limit = u64::try_from(limits.max_storage).ok().filter(|limit| *limit > 0);
    let found =
        limit.map_or_else(|| format!("{used} bytes, no limit"), |limit| format!("{used} of {limit} bytes"));
    Finding::of(NATS, "storage of the account", found).warn_unless(
        limit.is_none_or(|limit| used < limit / 100 * USED_MAX),
        "When it is used up nothing is published, and the outbox grows. Raise the limit of the account.",
    )
}

/// Only what differs, or one line that says that nothing does.
fn of_stream(info: &Info, shard: Shard, replicas: usize) -> Vec<Finding> {
    let Stream { name, subjects, retention, discard, storage, num_replicas, .. } = &info.config;
    let of = |check: &str, found: String| Finding::of(NATS, format!("{name} {check}"), found);
    let again = "`nats stream edit` changes it.";
    let drops = format!("It drops events that a subscriber may not have read yet. {again}");
    let (age, per_subject) = (info.config.max_age, info.config.max_messages_per_subject);
    let wanted = [OUTLET.subjects_of(shard)];
    let mut findings = vec![
        of("subjects", subjects.join(", ")).bad_unless(
            *subjects == wanted,
            format!(
                "The relay publishes to {}, and a sequence is a position only if nobody else adds. {again}",
                wanted[0]
            ),
        ),
        of("retention", format!("{retention:?}")).bad_unless(
            *retention == RetentionPolicy::Limits,
            "What one subscriber has read is gone for the others. \
                It cannot be changed: delete the stream, and the relay makes it again from the outbox.",
        ),
        of("discard", format!("{discard:?}")).bad_unless(*discard == DiscardPolicy::New, drops.as_str()),
        of("max_age", format!("{age:?}")).bad_unless(age.is_zero(), drops.as_str()),
        of("max_msgs_per_subject", per_subject.to_string()).bad_unless(per_subject <= 0, drops.as_str()),
        of("storage", format!("{storage:?}")).bad_unless(
            *storage == StorageType::File,
            "It is empty after a restart. \
            It cannot be changed: delete the stream, and the relay makes it again from the outbox.",
        ),
        of("acknowledgements", if info.config.no_ack { "none" } else { "of every message" }.to_owned())
            .bad_unless(!info.config.no_ack, format!("The relay never learns what is stored. {again}")),
        of("sealed", info.config.sealed.to_string()).bad_unless(
            !info.config.sealed,
            "Nothing can be published to it any more, and it cannot be undone.",
        ),
        of("replicas", num_replicas.to_string()).warn_unless(
            *num_replicas == replicas,
            format!("NATS_REPLICAS says {replicas}, which counts for new streams only. {again}"),
        ),
        filled(&format!("{name} messages"), info.state.messages, info.config.max_messages),
        filled(&format!("{name} bytes"), info.state.bytes, info.config.max_bytes),
    ];
    findings.retain(|finding| finding.advice.is_some());
    if findings.is_empty() {
        let found =
            format!("as the relay needs it, {} messages, {} bytes", info.state.messages, info.state.bytes);
        findings.push(Finding::of(NATS, name, found));
    }
    findings
}

/// How near a stream is to a limit, where 0 and less is none.
fn filled(check: &str, used: u64, limit: i64) -> Finding {
    let limit = u64::try_from(limit).unwrap_or(0);
    Finding::of(NATS, check, format!("{used} of {limit}")).warn_unless(
        limit == 0 || used < limit / 100 * USED_MAX,
        "When it is full nothing is published, and the outbox grows. `nats stream edit` raises the limit.",
    )
}
