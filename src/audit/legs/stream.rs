//! The stream: a message for every event of the outbox, in its place and with its content.

use std::collections::HashMap;

use outbox_relay::Shard;
use outbox_relay::audit::{Comparison, EventDifference, ShardPart, compare};
use outbox_relay::in_time::{InTime as _, SCAN_TIMEOUT};
use outbox_relay::stream::{self, Count};
use sqlx::PgConnection;

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

/// `issued` events.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// By the key of their campaign, once they are counted.
    counts: Option<HashMap<String, i64>>,
    differences: HashMap<CampaignId, Difference>,
}

impl Leg for Stream {
    fn name(&self) -> LegName {
        NAME
    }

    /// The server keeps a count for every subject, and reads all of them to tell some. The auditor does without: it
    /// compares each new event with its message.
    fn quick<'a>(
        &'a mut self,
        sources: &'a mut Sources,
        campaigns: &'a [Campaign],
        look: Look,
    ) -> Asking<'a, ()> {
        Box::pin(async move {
            if look == Look::Brief || self.counts.is_some() {
                return Ok(());
            }
            let counted = self.counts.insert(HashMap::new());
            let prefix = format!("{}.{ISSUED}.", OUTLET.subjects);
            let only = match campaigns {
                [only] => only.id.to_string(),
                _ => "*".to_owned(),
            };
            for shard in (0..sources.shards).map(Shard) {
                let (nats, name) = (&sources.connections.nats, OUTLET.stream_of(shard));
                for (subject, count) in
                    stream::counts(nats, &name, &OUTLET.subject(ISSUED, &only, shard)).await?
                {
                    let key = subject.strip_prefix(&prefix).and_then(|rest| rest.split('.').next());
                    counted.insert(key.unwrap_or_default().to_owned(), i64::try_from(count)?);
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
        _: Look,
    ) -> Asking<'a, ()> {
        Box::pin(async move {
            for campaign in campaigns.iter().filter(|campaign| campaign.stream_is_whole) {
                let Some(messages) = self.printed(campaign) else { continue };
                if campaign.rested() && messages == campaign.issued {
                    continue;
                }
                let found = closer(sources, campaign).await?;
                self.differences.extend(found.map(|found| (campaign.id, found)));
            }
            Ok(())
        })
    }

    fn figures(&self, campaign: &Campaign) -> Option<Difference> {
        self.differences.get(&campaign.id).cloned()
    }

    fn part<'a>(
        &'a mut self,
        sources: &'a mut Sources,
        part: ShardPart,
    ) -> Asking<'a, Option<(Compared, Option<Difference>)>> {
        Box::pin(async move {
            let Sources { connections, connection, bar, .. } = sources;
            let progress = |positions| bar.inc(positions);
            let found = compare(connection, &connections.nats, &connections.outlet, part, progress).await?;
            let Comparison { compared: events, missing, extra, different, first_difference } = found;
            let compared =
                Compared { events, missing_from_stream: missing, more_in_stream: extra, different };
            Ok(Some((compared, first_difference.map(of_event))))
        })
    }

    fn printed(&self, campaign: &Campaign) -> Option<i64> {
        Some(self.counts.as_ref()?.get(&campaign.id.to_string()).copied().unwrap_or_default())
    }

    fn fields(&self, campaign: &Campaign) -> Vec<Field> {
        vec![("stream", self.printed(campaign).map(Value::from))]
    }
}

/// Looks at a campaign until nothing moves during a look.
async fn closer(sources: &mut Sources, campaign: &Campaign) -> anyhow::Result<Option<Difference>> {
    let Sources { connections, connection, .. } = sources;
    let name = OUTLET.stream_of(campaign.shard);
    for _ in 0..LOOKS_MAX {
        let subject = OUTLET.subject(ISSUED, &campaign.id.to_string(), campaign.shard);
        let Count { messages, end: before } = stream::count_of(&connections.nats, &name, &subject).await?;
        let after = stream::end(&connections.nats, &name).await?.cast_signed();
        let (least, most) = announced(connection, campaign, (before, after)).await?;
        let expected = messages.min(most).max(least);
        let found = campaign.unequal(NAME, Mismatch::Messages, expected, messages);
        if found.is_some() || least == most {
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
    .within(SCAN_TIMEOUT)
    .await
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
