//! The stream: a message for every event of the outbox, in its place and with its content.

use std::collections::HashMap;

use outbox_relay::audit::{Comparison, ShardPart, compare};
use outbox_relay::stream::counts;
use outbox_relay::{Outlet, Shard};

use crate::audit::campaigns::{Campaign, Campaigns};
use crate::audit::difference::{Difference, LegName, Mismatch, Value};
use crate::audit::leg::{Asking, Field, Leg, Moment, Part};
use crate::audit::sheet::Compared;
use crate::audit::sources::Sources;
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
        shard: Shard,
        part: Part,
    ) -> Asking<'a, Option<(Compared, Option<Difference>)>> {
        Box::pin(async move {
            let Sources { connections, connection, bar, .. } = sources;
            let progress = |positions| bar.inc(positions);
            let part = ShardPart { shard, after: part.0, until: part.1 };
            let found = compare(connection, &connections.nats, &OUTLET, part, progress).await?;
            let Comparison { compared: events, missing, extra, different, first_difference } = found;
            let compared =
                Compared { events, missing_from_stream: missing, more_in_stream: extra, different };
            let difference = first_difference.map(|difference| Difference {
                shard: Some(shard),
                position: difference.position(),
                found: Some(Value::Event(difference)),
                ..Difference::new(NAME, Mismatch::OtherMessage)
            });
            Ok(Some((compared, difference)))
        })
    }

    fn printed(&self, campaign: &Campaign) -> Option<i64> {
        Some(self.0.get(&campaign.id.to_string()).copied().unwrap_or_default())
    }

    fn fields(&self, campaign: &Campaign) -> Vec<Field> {
        vec![("stream", self.printed(campaign).map(Value::from))]
    }
}
