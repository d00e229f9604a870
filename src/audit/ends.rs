//! The ends of the shards: how far outbox, stream and projections go.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use outbox_relay::Shard;
use outbox_relay::audit::{ShardAudit, ShardDifference, audit_shard};
use outbox_relay::zoo;
use tokio::time::sleep;

use super::difference::{Difference, LegName, Mismatch, Source};
use super::legs::stream;
use super::sources::Sources;
use super::value::Value;
use crate::connections::Connections;
use crate::projections;

/// A stream or projection that has not moved for this time stands still: longer than a standby needs to take over.
const STANDS_AFTER: Duration = Duration::from_secs(5);
/// For all streams and projections to reach the cut, as long as they move: the backlog of an hour of claims may take
/// longer, and then nothing can be told yet.
const CATCH_UP_MAX: Duration = Duration::from_secs(120);
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Reads the ends of a shard.
pub(super) async fn read(sources: &mut Sources, shard: Shard) -> anyhow::Result<ShardAudit> {
    let Connections { nats, outlet, .. } = &sources.connections;
    Ok(audit_shard(&mut sources.connection, nats, outlet, shard).await?)
}

/// Reads the ends of all shards once every stream and projection has reached the cut, or one stands still before it.
///
/// # Errors
/// When a server does not answer, or they are still on their way after [`CATCH_UP_MAX`].
pub(super) async fn at_the_cut(sources: &mut Sources, heads: &[i64]) -> anyhow::Result<Vec<ShardAudit>> {
    let began = Instant::now();
    let mut waits: HashMap<Difference, Instant> = HashMap::new();
    loop {
        let mut shards = Vec::with_capacity(heads.len());
        for shard in (0..sources.shards).map(Shard) {
            shards.push(read(sources, shard).await?);
        }
        let lags = || shards.iter().zip(heads).flat_map(|(audited, head)| lags(audited, *head));
        let now = Instant::now();
        waits = lags().map(|lag| (lag.at(), *waits.get(&lag.at()).unwrap_or(&now))).collect();
        let stands = |since: &Instant| now - *since > STANDS_AFTER || zoo::has("audit-has-no-cut");
        if waits.values().all(stands) {
            return Ok(shards);
        }
        if let Some(lag) = lags().next().filter(|_| now - began > CATCH_UP_MAX) {
            bail!("events are still on their way after {CATCH_UP_MAX:?}, audit again later: {lag}");
        }
        sleep(CHECK_INTERVAL).await;
    }
}

/// The first difference at the ends, up to the cut: in a stream, or else in a projection.
pub(super) fn first(shards: &[ShardAudit], heads: &[i64]) -> Option<Difference> {
    let cuts = || shards.iter().zip(heads);
    let streams = || cuts().flat_map(|(audited, head)| in_stream(audited, *head)).next();
    streams().or_else(|| cuts().flat_map(|(audited, head)| behind(audited, *head)).next())
}

/// What differs at the ends of a shard: in the stream, and then in the projections.
pub(super) fn differences(audited: &ShardAudit) -> impl Iterator<Item = Difference> {
    in_stream(audited, audited.head).chain(behind(audited, audited.head))
}

/// The sides that have not come as far as `head`.
fn lags(audited: &ShardAudit, head: i64) -> impl Iterator<Item = Difference> {
    lag(audited, head).into_iter().chain(applied(audited, move |applied| applied < head))
}

/// What contradicts the outbox, and whether the stream has not come as far as `head`.
fn in_stream(audited: &ShardAudit, head: i64) -> impl Iterator<Item = Difference> {
    let contradiction = audited.contradiction().map(|found| match &found {
        ShardDifference::Ends { .. } => of_shard(stream::NAME, Mismatch::StreamAhead, found),
        ShardDifference::Missing { .. } => of_shard(stream::NAME, Mismatch::MessagesMissing, found),
        ShardDifference::Parked { projection, .. } => {
            let known = projections::names().into_iter().find(|name| name == projection);
            of_shard(known.map_or(stream::NAME, LegName::new), Mismatch::EventsParked, found)
        }
    });
    contradiction.into_iter().chain(lag(audited, head))
}

fn lag(audited: &ShardAudit, head: i64) -> Option<Difference> {
    let lag = audited.lag().filter(|_| audited.head - audited.behind() < head)?;
    Some(Difference {
        found: lag.at.sequence.map(Value::from),
        ..of_shard(stream::NAME, Mismatch::StreamBehind, lag.difference)
    })
}

fn of_shard(leg: LegName, mismatch: Mismatch, found: ShardDifference) -> Difference {
    let (expected, figure) = found.expected_and_found();
    Difference {
        shard: Some(found.shard()),
        position: found.position(),
        expected: Some(expected.into()),
        found: Some(figure.into()),
        source: Some(Source::Shard(found)),
        ..Difference::new(leg, mismatch)
    }
}

/// The projections that have not applied everything up to `head`, or have applied more than the outbox holds.
fn behind(audited: &ShardAudit, head: i64) -> impl Iterator<Item = Difference> {
    let end = audited.head;
    applied(audited, move |applied| applied < head || applied > end)
}

/// The projections whose position `differs`.
fn applied(audited: &ShardAudit, differs: impl Fn(i64) -> bool) -> impl Iterator<Item = Difference> {
    let ShardAudit { shard, head, .. } = *audited;
    let applied = projections::names().into_iter().map(|name| (name, audited.applied(name)));
    applied.filter(move |(_, applied)| differs(*applied)).map(move |(name, applied)| Difference {
        shard: Some(shard),
        expected: Some(head.into()),
        found: Some(applied.into()),
        ..Difference::new(LegName::new(name), Mismatch::ProjectionBehind)
    })
}
