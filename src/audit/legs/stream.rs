//! The stream: a message for every event of the outbox, in its place and with its content.

use std::collections::HashMap;

use outbox_relay::audit::{Comparison, EventDifference, ShardPart, compare};
use outbox_relay::stream::counts;
use outbox_relay::{Outlet, Shard};

use crate::audit::campaigns::{Campaign, Campaigns};
use crate::audit::difference::{Difference, LegName, Mismatch, Source};
use crate::audit::leg::{Asking, Field, Leg, Moment};
use crate::audit::sheet::Compared;
use crate::audit::sources::Sources;
use crate::audit::value::Value;
use crate::event::{ISSUED, OUTLET};

pub(in crate::audit) const NAME: LegName = LegName::new("stream");

/// `issued` events, by the key of their campaign.
#[derive(Debug, Default)]
pub(super) struct Stream(HashMap<String, i64>);

impl Leg for Stream {
    fn name(&self) -> LegName {
        NAME
    }

    /// The server keeps a count for every subject.
    fn quick<'a>(&'a mut self, sources: &'a mut Sources, campaigns: &'a mut Campaigns) -> Asking<'a, ()> {
        Box::pin(async move {
            let Outlet { subjects, .. } = OUTLET;
            let prefix = format!("{subjects}.{ISSUED}.");
            let key = campaigns.only.map_or_else(|| "*".to_owned(), |id| id.to_string());
            for shard in (0..sources.shards).map(Shard) {
                let filter = OUTLET.subject(ISSUED, &key, shard);
                let nats = &sources.connections.nats;
                for (subject, count) in counts(nats, &OUTLET.stream_of(shard), &filter).await? {
                    let key = subject.strip_prefix(&prefix).and_then(|rest| rest.split('.').next());
                    self.0.insert(key.unwrap_or_default().to_owned(), i64::try_from(count)?);
                }
            }
            Ok(())
        })
    }

    fn figures(&self, campaign: &Campaign, _: Moment) -> Option<Difference> {
        let messages = self.printed(campaign)?;
        campaign
            .unequal(NAME, Mismatch::Messages, campaign.issued, messages)
            .filter(|_| campaign.stream_is_whole)
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
        Some(self.0.get(&campaign.id.to_string()).copied().unwrap_or_default())
    }

    fn fields(&self, campaign: &Campaign) -> Vec<Field> {
        vec![("stream", self.printed(campaign).map(Value::from))]
    }
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
