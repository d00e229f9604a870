//! Checks of NATS: whether `JetStream` keeps every message that it confirms.

use async_nats::jetstream::stream::{Config as Stream, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode, context::RequestErrorKind};
use outbox_relay::{Shard, stream};
use serde::Deserialize;
use serde_json::json;

use super::finding::Finding;
use crate::config::Config;
use crate::connections::{Patience, connect_nats};
use crate::event::OUTLET;

const NATS: &str = "nats";
/// The share of a limit from which on the doctor warns, in percent.
const USED_MAX: u64 = 80;
/// What to do when NATS does not answer a question, although it is there.
const RIGHTS: &str = "Use a login that may publish to $JS.API.INFO and $JS.API.STREAM.INFO.>.";

/// The answer to `$JS.API.INFO`. (The type of the crate requires fields that NATS 2.9 does not send.)
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
    /// In bytes; no limit if 0 or less.
    max_storage: i64,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: ErrorCode,
    description: String,
}

pub(super) async fn examine(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let nats = connect_nats(config, Patience::None).await?;
    let mut findings = vec![version(&nats.server_info().version, config.replicas)];
    match jetstream::new(nats.clone()).request("INFO", &json!({})).await {
        Ok(Account { storage: used, limits, error: None }) => findings.push(storage(used, &limits)),
        Ok(Account { error, .. }) => {
            findings.push(unavailable(error));
            return Ok(findings);
        }
        Err(error) if error.kind() != RequestErrorKind::NoResponders => {
            let advice = format!("In a cluster, check that more than half of the servers run. {RIGHTS}");
            findings.push(Finding::unknown(NATS, "JetStream", error.to_string(), advice));
            return Ok(findings);
        }
        Err(_) if !nats.server_info().jetstream => {
            findings.push(unavailable(None));
            return Ok(findings);
        }
        // The server has JetStream.
        Err(_) => {
            let found = "the account of this login does not answer";
            let advice = format!("Either it has no JetStream (`jetstream: enabled`), or: {RIGHTS}");
            findings.push(Finding::unknown(NATS, "JetStream", found, advice));
        }
    }
    let of_shards = (0..config.shards).map(|shard| OUTLET.stream_of(Shard(shard)));
    for name in of_shards.chain([OUTLET.dead_stream(), OUTLET.replay_stream()]) {
        match stream::existing(&nats, &name).await {
            Ok(Some(stream)) => findings.extend(of_existing(stream.cached_info(), config)),
            Ok(None) => findings.push(missing(&name)),
            Err(error) => {
                findings.push(Finding::unknown(NATS, &name, error.to_string(), RIGHTS));
                break; // the others are likely to take as long to fail
            }
        }
    }
    Ok(findings)
}

fn of_existing(info: &Info, config: &Config) -> Vec<Finding> {
    let name = &info.config.name;
    let shard = (0..config.shards).map(Shard).find(|shard| OUTLET.stream_of(*shard) == *name);
    match shard {
        Some(shard) => of_stream(info, shard, config.replicas),
        None if *name == OUTLET.dead_stream() => vec![letters(info)],
        None => vec![Finding::of(NATS, name, format!("{} messages", info.state.messages))],
    }
}

fn missing(name: &str) -> Finding {
    let found = Finding::of(NATS, name, "not there");
    if name == OUTLET.replay_stream() {
        return Finding {
            found: "not there: the first replay creates it, if its login may".to_owned(),
            ..found
        };
    }
    let advice = if name == OUTLET.dead_stream() {
        "Without it, an event that cannot be applied holds up the projections. The relay of shard 0 creates it when it \
         starts; if it has started, its log says why not. docs/how-to/least-privilege.md has the command for an administrator."
    } else {
        "The relay creates it when it starts. If it existed before, see /readyz of the relay."
    };
    found.warn_unless(false, advice)
}

/// The stream of dead letters.
fn letters(info: &Info) -> Finding {
    let (used, limit) = (info.state.messages, u64::try_from(info.config.max_messages).unwrap_or(0));
    let found = if limit == 0 { format!("{used} messages") } else { format!("{used} of {limit} messages") };
    let wanted = [format!("dead.{}.>", OUTLET.subjects)];
    Finding::of(NATS, &*info.config.name, found)
        .bad_unless(
            info.config.subjects == wanted,
            format!("It must take the subject {}: until then, an event that cannot be applied holds up the projections.", wanted[0]),
        )
        .warn_unless(
            limit == 0 || used < limit / 100 * USED_MAX,
            "When it is full, the projections wait. Redrive or drop its events (`coupon dead list`).",
        )
}

/// `JetStream` serves nothing: the server refuses with a reason, or has no `JetStream` that could.
fn unavailable(refusal: Option<Refusal>) -> Finding {
    let remedy = match &refusal {
        Some(Refusal { err_code, .. }) if *err_code == ErrorCode::CLUSTER_NOT_AVAILABLE => {
            "The cluster has no leader, because no more than half of its servers can reach each other. Start the servers \
             that are away, and check the routes between them."
        }
        _ => "Enable JetStream in nats-server.conf (`jetstream {}`) and for the account of this login.",
    };
    let found = refusal.map_or_else(|| "not there".to_owned(), |refusal| refusal.description);
    let advice = format!("Nothing is published, and the outbox keeps every event. {remedy}");
    Finding::of(NATS, "JetStream", found).bad_unless(false, advice)
}

fn version(version: &str, replicas: usize) -> Finding {
    let mut parts = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    let parsed: (u32, u32, u32) = (part(), part(), part());
    Finding::of(NATS, "version", version)
        .warn_unless(
            parsed >= (2, 10, 0),
            "It has no sync_interval: a power cut loses the messages of up to a minute, and the relay publishes them \
             again; a stream that is deleted when the outbox no longer holds all of it needs a new epoch. Use 2.10 or \
             newer, with sync_interval: always.",
        )
        .warn_unless(
            replicas == 1 || !((2, 10, 14)..(2, 11, 0)).contains(&parsed),
            "With replicas it may refuse a message as a duplicate although it does not have it; the relay notices, and \
             waits. Use 2.11 or newer.",
        )
}

fn storage(used: u64, limits: &Limits) -> Finding {
    let limit = u64::try_from(limits.max_storage).ok().filter(|limit| *limit > 0);
    let found =
        limit.map_or_else(|| format!("{used} bytes, no limit"), |limit| format!("{used} of {limit} bytes"));
    Finding::of(NATS, "storage of the account", found).warn_unless(
        limit.is_none_or(|limit| used < limit / 100 * USED_MAX),
        "When it is used up, nothing is published and the outbox grows. Raise the limit of the account.",
    )
}

/// A finding for each fault of a stream, or a single one without a fault.
fn of_stream(info: &Info, shard: Shard, replicas: usize) -> Vec<Finding> {
    let Stream { name, subjects, retention, discard, storage, num_replicas, .. } = &info.config;
    let of = |check: &str, found: String| Finding::of(NATS, format!("{name} {check}"), found);
    let edit = "Change it with `nats stream edit`.";
    let drops = format!("It drops events that a subscriber may not have read yet. {edit}");
    let (age, per_subject) = (info.config.max_age, info.config.max_messages_per_subject);
    let wanted = [OUTLET.subjects_of(shard)];
    let kept = (info.state.last_sequence + 1).saturating_sub(info.state.first_sequence.max(1));
    let mut findings = vec![
        of("subjects", subjects.join(", ")).bad_unless(
            *subjects == wanted,
            format!(
                "The relay publishes to {}. Sequences are positions only while no other messages arrive. {edit}",
                wanted[0]
            ),
        ),
        of("retention", format!("{retention:?}")).bad_unless(
            *retention == RetentionPolicy::Limits,
            "A message that one subscriber has read is gone for the others. This cannot be changed: delete the stream, \
             and the relay recreates it from the outbox.",
        ),
        of("discard", format!("{discard:?}")).bad_unless(*discard == DiscardPolicy::New, drops.as_str()),
        of("max_age", format!("{age:?}")).bad_unless(age.is_zero(), drops.as_str()),
        of("max_msgs_per_subject", per_subject.to_string()).bad_unless(per_subject <= 0, drops.as_str()),
        of("storage", format!("{storage:?}")).bad_unless(
            *storage == StorageType::File,
            "It is empty after a restart. This cannot be changed: delete the stream, and the relay recreates it from \
             the outbox.",
        ),
        of("acknowledgements", if info.config.no_ack { "none" } else { "of every message" }.to_owned())
            .bad_unless(!info.config.no_ack, format!("The relay never learns what is stored. {edit}")),
        of("sealed", info.config.sealed.to_string()).bad_unless(
            !info.config.sealed,
            "Nothing can be published to it any more, and that cannot be undone.",
        ),
        of("subject transform", format!("{:?}", info.config.subject_transform)).bad_unless(
            info.config.subject_transform.is_none(),
            format!("Events are stored under subjects that no subscriber expects. {edit}"),
        ),
        of("mirror and sources", "some".to_owned()).bad_unless(
            info.config.mirror.is_none() && info.config.sources.as_ref().is_none_or(Vec::is_empty),
            "Sequences are positions only while no other messages arrive. Delete the stream, and the relay recreates it \
             from the outbox.",
        ),
        of("messages", format!("{} of {kept}", info.state.messages)).bad_unless(
            info.state.messages == kept,
            "Messages were deleted from its midst. `coupon audit --full` names the first; a stream that is deleted is \
             recreated from the outbox.",
        ),
        of("replicas", num_replicas.to_string()).warn_unless(
            *num_replicas == replicas,
            format!("NATS_REPLICAS is {replicas}, which applies to new streams only. {edit}"),
        ),
        filled(&format!("{name} messages"), info.state.messages, info.config.max_messages),
        filled(&format!("{name} bytes"), info.state.bytes, info.config.max_bytes),
    ];
    findings.retain(|finding| finding.advice.is_some());
    if findings.is_empty() {
        let (messages, bytes, first) = (info.state.messages, info.state.bytes, info.state.first_sequence);
        let found =
            format!("as the relay needs it, {messages} messages from sequence {first} on, {bytes} bytes");
        findings.push(Finding::of(NATS, name, found));
    }
    findings
}

/// How near a stream is to a limit, which is none if 0 or less.
fn filled(check: &str, used: u64, limit: i64) -> Finding {
    let limit = u64::try_from(limit).unwrap_or(0);
    Finding::of(NATS, check, format!("{used} of {limit}")).warn_unless(
        limit == 0 || used < limit / 100 * USED_MAX,
        "When it is full, nothing is published and the outbox grows. Raise the limit with `nats stream edit`.",
    )
}
