//! The stream: a message for every event of the outbox, in its place and with its content.

use std::collections::HashMap;

use outbox_relay::Shard;
use outbox_relay::audit::{Comparison, EventDifference, ShardPart, compare};
use outbox_relay::stream::{self, Count};
use sqlx::PgConnection;

use super::outbox::late;
use crate::audit::campaigns::Campaign;
use crate::audit::difference::{Difference, LegName, Mismatch, Source};
use crate::audit::leg::{Asking, Field, Leg, Look};
use crate::audit::sheet::Compared;
use crate::audit::sources::Sources;
use crate::audit::value::Value;
use crate::coupon::store::issued_of;
use crate::event::{ISSUED, OUTLET};
use crate::ids::CampaignId;

pub(in crate::audit) const NAME: LegName = LegName::new("stream");

/// Looks at the messages of one campaign, at most, until none is stored during a look. In a rush there may be none so
/// calm: then the count was within the bounds of each look, which are a few messages apart.
const LOOKS_MAX: usize = 5;

/// What the stream holds of each campaign, and how it differs.
#[derive(Debug, Default)]
pub(super) struct Stream(HashMap<CampaignId, (Count, Option<Difference>)>);

impl Leg for Stream {
    fn name(&self) -> LegName {
        NAME
    }

    /// The server keeps a count for every subject.
    fn quick<'a>(&'a mut self, sources: &'a mut Sources, campaigns: &'a [Campaign]) -> Asking<'a, ()> {
        Box::pin(async move {
            for shard in (0..sources.shards).map(Shard) {
                let of_shard: Vec<_> = campaigns.iter().filter(|campaign| campaign.shard == shard).collect();
                let subjects = of_shard.iter().map(|campaign| subject(campaign)).collect();
                let nats = &sources.connections.nats;
                match stream::counts_of(nats, &OUTLET.stream_of(shard), subjects).await {
                    Ok(counts) => {
                        let ids = of_shard.into_iter().map(|campaign| campaign.id);
                        self.0.extend(ids.zip(counts.into_iter().map(|count| (count, None))));
                    }
                    Err(error) => sources.fail(format_args!("shard {shard}"), error),
                }
            }
            Ok(())
        })
    }

    /// A message for each coupon whose event is not behind the end of the stream.
    fn judge<'a>(
        &'a mut self,
        sources: &'a mut Sources,
        campaigns: &'a [Campaign],
        look: Look,
    ) -> Asking<'a, ()> {
        Box::pin(async move {
            for shard in (0..sources.shards).map(Shard) {
                let of_shard = campaigns.iter().filter(|campaign| campaign.shard == shard);
                let doubtful: Vec<_> = of_shard.filter(|campaign| self.is_doubtful(campaign)).collect();
                let ends = doubtful.iter().map(|campaign| self.0[&campaign.id].0.end);
                let Some(end) = ends.min() else { continue };
                let late = late(&mut sources.connection, shard, end).await?;
                for campaign in doubtful {
                    let late = late.get(&campaign.id).copied().unwrap_or_default();
                    let bounds = (campaign.issued - late, campaign.issued_after);
                    let Some((count, difference)) = self.0.get_mut(&campaign.id) else { continue };
                    *difference = match look {
                        Look::Brief => outside(campaign, count.messages, bounds),
                        Look::Patient => closer(sources, campaign).await?,
                    };
                }
            }
            Ok(())
        })
    }

    fn figures(&self, campaign: &Campaign) -> Option<Difference> {
        self.0.get(&campaign.id)?.1.clone()
    }

    fn part<'a>(
        &'a mut self,
        sources: &'a mut Sources,
        part: ShardPart,
    ) -> Asking<'a, Option<(Compared, Option<Difference>)>> {
        Box::pin(async move {
            let Sources { connections, connection, bar, .. } = sources;
            let progress = |positions| bar.inc(positions);
            let found = compare(connection, &connections.nats, &OUTLET, part, progress).await?;
            let Comparison { compared: events, missing, extra, different, first_difference } = found;
            let compared =
                Compared { events, missing_from_stream: missing, more_in_stream: extra, different };
            Ok(Some((compared, first_difference.map(of_event))))
        })
    }

    fn printed(&self, campaign: &Campaign) -> Option<i64> {
        Some(self.0.get(&campaign.id)?.0.messages)
    }

    fn fields(&self, campaign: &Campaign) -> Vec<Field> {
        vec![("stream", self.printed(campaign).map(Value::from))]
    }
}

impl Stream {
    /// Whether the stream should hold all events of a campaign, and holds another number than there were coupons
    /// before and after it was asked.
    fn is_doubtful(&self, campaign: &Campaign) -> bool {
        let agrees = |(count, _): &(Count, _)| campaign.rested() && count.messages == campaign.issued;
        campaign.stream_is_whole && self.0.get(&campaign.id).is_some_and(|read| !agrees(read))
    }
}

/// Looks at a campaign until nothing moves during a look.
async fn closer(sources: &mut Sources, campaign: &Campaign) -> anyhow::Result<Option<Difference>> {
    let Sources { connections, connection, .. } = sources;
    let name = OUTLET.stream_of(campaign.shard);
    for _ in 0..LOOKS_MAX {
        let counts = stream::counts_of(&connections.nats, &name, vec![subject(campaign)]).await?;
        let Some(Count { messages, end: before }) = counts.first().copied() else { return Ok(None) };
        let after = stream::end(&connections.nats, &name).await?.cast_signed();
        let bounds = announced(connection, campaign, (before, after)).await?;
        let found = outside(campaign, messages, bounds);
        if found.is_some() || bounds.0 == bounds.1 {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The numbers of coupons whose events are not behind each of two positions.
async fn announced(
    connection: &mut PgConnection,
    campaign: &Campaign,
    (before, after): (i64, i64),
) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as(concat!(
        "SELECT issued - count(position), issued - count(position) FILTER (WHERE position > $5) FROM (SELECT ",
        issued_of!("$1"),
        "::bigint AS issued) AS numbered LEFT JOIN outbox \
         ON shard = $2 AND key = $3 AND position > $4 AND type = 'issued' GROUP BY issued"
    ))
    .bind(campaign.id)
    .bind(campaign.shard)
    .bind(campaign.id.to_string())
    .bind(before)
    .bind(after)
    .fetch_one(connection)
    .await
}

/// A difference, if the number of messages is outside these bounds.
fn outside(campaign: &Campaign, messages: i64, (least, most): (i64, i64)) -> Option<Difference> {
    campaign.unequal(NAME, Mismatch::Messages, messages.min(most).max(least), messages)
}

/// The subject of a campaign's `issued` events.
fn subject(campaign: &Campaign) -> String {
    OUTLET.subject(ISSUED, &campaign.id.to_string(), campaign.shard)
}

/// A difference between an event and its message.
fn of_event(source: EventDifference) -> Difference {
    let id = |id: &Option<String>| id.clone().map(Value::Text);
    let (mismatch, expected, found) = match &source {
        EventDifference::OtherEvent { expected, found, .. } => {
            (Mismatch::OtherEvent, Some(Value::Text(expected.to_string())), id(found))
        }
        EventDifference::OtherSubject { expected, found, .. } => {
            (Mismatch::OtherSubject, Some(Value::Text(expected.clone())), Some(Value::Text(found.clone())))
        }
        EventDifference::OtherBody { .. } => (Mismatch::OtherBody, None, None),
        EventDifference::Missing { expected, next, .. } => {
            let next = next.as_ref().and_then(|(_, next)| id(next));
            (Mismatch::MessageMissing, Some(Value::Text(expected.to_string())), next)
        }
        EventDifference::Extra { found, .. } => (Mismatch::ExtraMessage, None, id(found)),
    };
    Difference {
        shard: Some(source.shard()),
        position: source.position(),
        expected,
        found,
        source: Some(Source::Event(source)),
        ..Difference::new(NAME, mismatch)
    }
}
