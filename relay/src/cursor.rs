//! Where a shard's stream ends, as a position of its outbox, and whether that end is ours.

use std::time::Duration;

use async_nats::Client;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::PgConnection;
use tokio::time::sleep;
use ulid::Ulid;
use uuid::Uuid;

use crate::epoch::{Epoch, Epochs};
use crate::event::epoch_of;
use crate::outbox;
use crate::outlet::{Outlet, Shard};
use crate::pipeline::IN_FLIGHT_MAX;
use crate::status::{Halt, RelayError};
use crate::stream::{self, StreamError};
use crate::zoo;

/// A server says that there is no stream as soon as it begins to delete it: one that is made before
/// it has ended loses its files with the other (seen with nats-server 2.9.10 in 3 of 4 tries without a
/// wait, never with one of 50 ms). A cluster says so too while it has no leader.
const MISSING_FOR: Duration = Duration::from_secs(1);
/// Messages that are asked for and have not come, at the most.
const ASKED_AT_ONCE: usize = 100;

/// Asks where the stream of a shard ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    pub outlet: &'a Outlet,
    pub shard: Shard,
    pub replicas: usize,
    pub nats: &'a Client,
}

/// What names a message of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessageName {
    pub id: Option<String>,
    pub epoch: i32,
}

impl Cursor<'_> {
    /// The position at which the stream ends. Makes the stream where there is none, and makes sure that its
    /// last messages are ours: all behind position `published`, and of more than could be on their way the
    /// last. Each goes behind its predecessor's place, whoever has taken that.
    pub(crate) async fn find(
        &self,
        connection: &mut PgConnection,
        published: i64,
    ) -> Result<(i64, Epochs), RelayError> {
        let stream = self.stream(connection).await?;
        let last = stream.cached_info().state.last_sequence.cast_signed();
        let epochs = Epochs::read(connection, self.shard).await?;
        let current = epochs.current();
        let (oldest, head) = outbox::bounds(connection, self.shard).await?;
        let name = || self.outlet.stream_of(self.shard);
        let begins = last + 1 == current.first_sequence;
        let position = match epochs.place_of(last) {
            _ if begins => current.first_position - 1,
            Some((epoch, position)) if epoch == current => position,
            _ => {
                let sequence = current.first_sequence;
                return Err(Halt::BeforeEpoch { stream: name(), last, sequence }.into());
            }
        };
        if position > head {
            return Err(Halt::StreamIsAhead { stream: name(), last, head }.into());
        }
        if position + 1 < oldest {
            let sequence = epochs.sequence_of(oldest);
            return Err(Halt::PastRetention { stream: name(), last, oldest, sequence }.into());
        }
        // Of what is past retention only the stream tells; before an epoch is what it left behind.
        let looked_at = if zoo::has("only-the-last-message-is-compared") { 1 } else { IN_FLIGHT_MAX };
        let known = (oldest - 1).max(current.first_position - 1).max(position - looked_at);
        // If the stream has lost its tail, what is behind may be another's.
        let after = if published <= position { known.max(published) } else { known };
        self.check_tail(connection, &stream, current, (after, position)).await?;
        Ok((position, epochs))
    }

    /// The messages behind position `after`, up to `last`, are ours, or are not there: the stream was purged.
    async fn check_tail(
        &self,
        connection: &mut PgConnection,
        stream: &Stream,
        epoch: Epoch,
        (after, last): (i64, i64),
    ) -> Result<(), RelayError> {
        let events: Vec<(i64, Uuid)> = sqlx::query_as(
            "SELECT position, event_id FROM outbox WHERE shard = $1 AND position > $2 AND position <= $3 \
             ORDER BY position",
        )
        .bind(self.shard)
        .bind(after)
        .bind(last)
        .fetch_all(connection)
        .await?;
        let positions = events.iter().map(|(position, _)| *position).chain([last + 1]);
        if let Some((missing, _)) = (after + 1..).zip(positions).find(|(expected, there)| expected != there) {
            return Err(Halt::Hole(missing).into());
        }
        let mut messages = futures_util::stream::iter(events)
            .map(async |(position, id)| {
                let message = self.message(stream, epoch.sequence_of(position)).await?;
                Ok::<_, StreamError>((position, epoch.message_id(id.into()), message))
            })
            .buffered(ASKED_AT_ONCE);
        while let Some((position, ours, message)) = messages.try_next().await? {
            let Some(MessageName { id, .. }) = message else { continue };
            if id.as_ref() != Some(&ours) {
                let theirs = id.unwrap_or_else(|| "a message without id".to_owned());
                let (stream, sequence) = (self.outlet.stream_of(self.shard), epoch.sequence_of(position));
                return Err(Halt::Differs { stream, sequence, theirs, position, ours }.into());
            }
        }
        Ok(())
    }

    async fn stream(&self, connection: &mut PgConnection) -> Result<Stream, RelayError> {
        let name = self.outlet.stream_of(self.shard);
        if let Some(stream) = stream::existing(self.nats, &name).await? {
            return Ok(stream);
        }
        let (_, head) = outbox::bounds(connection, self.shard).await?;
        if head > 0 {
            tracing::warn!(
                stream = name,
                "the stream is missing: if it does not come back, it is made again"
            );
            sleep(MISSING_FOR).await;
        }
        Ok(stream::of_shard(self.nats, self.outlet, self.shard, self.replicas).await?)
    }

    /// What names the message at `sequence`; nothing when it is not there (any more).
    pub(crate) async fn message(
        &self,
        stream: &Stream,
        sequence: i64,
    ) -> Result<Option<MessageName>, StreamError> {
        if sequence < 1 {
            return Ok(None);
        }
        // From the stream's leader, not a direct get, which a replica that lags may answer.
        match stream.get_raw_message(sequence.unsigned_abs()).await {
            Ok(message) => {
                let epoch = epoch_of(Some(&message.headers)).unwrap_or_default();
                let id = message.headers.get(NATS_MESSAGE_ID).map(ToString::to_string);
                Ok(Some(MessageName { id, epoch }))
            }
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(answer)
                    if [ErrorCode::NO_MESSAGE_FOUND, ErrorCode::SEQUENCE_NOT_FOUND]
                        .contains(&answer.error_code()) =>
                {
                    Ok(None)
                }
                _ => Err(StreamError::new(&self.outlet.stream_of(self.shard), &error)),
            },
        }
    }

    /// The id of the event at `position`, if the outbox has it.
    pub(crate) async fn event_id(
        &self,
        connection: &mut PgConnection,
        position: i64,
    ) -> Result<Option<Ulid>, sqlx::Error> {
        let id: Option<Uuid> =
            sqlx::query_scalar("SELECT event_id FROM outbox WHERE shard = $1 AND position = $2")
                .bind(self.shard)
                .bind(position)
                .fetch_optional(connection)
                .await?;
        Ok(id.map(Ulid::from))
    }
}
