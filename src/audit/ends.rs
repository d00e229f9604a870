//! The ends of the shards: how far outbox, stream and projections go.

use outbox_relay::Shard;
use outbox_relay::audit::{ShardAudit, ShardDifference, audit_shard};

use super::difference::{Difference, LegName, Mismatch, Source};
use super::legs::stream;
use super::sources::Sources;
use super::value::Value;
use crate::event::OUTLET;
use crate::projections;

/// Reads the ends of every shard.
pub(super) async fn read(sources: &mut Sources) -> anyhow::Result<Vec<ShardAudit>> {
    let mut audited = Vec::new();
    for shard in (0..sources.shards).map(Shard) {
        let nats = &sources.connections.nats;
        audited.push(audit_shard(&mut sources.connection, nats, &OUTLET, shard).await?);
    }
    Ok(audited)
}

/// The first difference at the ends: in a stream, or else in a projection.
pub(super) fn first(shards: &[ShardAudit]) -> Option<Difference> {
    let streams = || shards.iter().flat_map(in_stream).next();
    streams().or_else(|| shards.iter().flat_map(behind).next())
}

/// What differs at the ends of a shard: in the stream, and then in the projections.
pub(super) fn differences(audited: &ShardAudit) -> impl Iterator<Item = Difference> {
    in_stream(audited).chain(behind(audited))
}

/// What contradicts the outbox, and whether the stream has not come as far.
fn in_stream(audited: &ShardAudit) -> impl Iterator<Item = Difference> {
    let contradiction = audited.contradiction().map(|found| match &found {
        ShardDifference::Ends { .. } => of_shard(stream::NAME, Mismatch::StreamAhead, found),
        ShardDifference::Missing { .. } => of_shard(stream::NAME, Mismatch::MessagesMissing, found),
        ShardDifference::Parked { projection, .. } => {
            let known = projections::names().into_iter().find(|name| name == projection);
            of_shard(known.map_or(stream::NAME, LegName::new), Mismatch::EventsParked, found)
        }
    });
    let lag = audited.lag().map(|lag| Difference {
        found: lag.at.sequence.map(Value::from),
        ..of_shard(stream::NAME, Mismatch::StreamBehind, lag.difference)
    });
    contradiction.into_iter().chain(lag)
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

/// The projections that have not applied everything.
fn behind(audited: &ShardAudit) -> impl Iterator<Item = Difference> {
    let ShardAudit { shard, head, .. } = *audited;
    let applied = projections::names().into_iter().map(|name| (name, audited.applied(name)));
    applied.filter(move |(_, applied)| *applied != head).map(move |(name, applied)| Difference {
        shard: Some(shard),
        expected: Some(head.into()),
        found: Some(applied.into()),
        ..Difference::new(LegName::new(name), Mismatch::ProjectionBehind)
    })
}
