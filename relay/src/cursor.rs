//! Finds where a shard's stream ends, as a position of its outbox, and verifies that its last messages are our
//! events.

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
use crate::in_time::InTime as _;
use crate::outbox;
use crate::outlet::{Outlet, Shard};
use crate::pipeline::IN_FLIGHT_MAX;
use crate::status::{Halt, RelayError};
use crate::stream::{self, StreamError};
use crate::zoo;

/// How long a stream must stay missing before it is created. A server reports that there is no stream as soon
/// as it begins to delete it, and a stream created before the deletion has ended loses its files with the old
/// one (nats-server 2.9.10: in 3 of 4 attempts without a wait, never with a wait of 50 ms). A cluster without a
/// leader also reports that there is no stream.
const MISSING_FOR: Duration = Duration::from_secs(1);
/// Requests for messages in flight, at most.
const ASKED_AT_ONCE: usize = 100;

/// Finds the end of the stream of a shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    pub outlet: &'a Outlet,
    pub shard: Shard,
    pub replicas: usize,
    pub nats: &'a Client,
}

/// The message id and epoch of a message in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessageName {
    pub id: Option<String>,
    pub epoch: i32,
}

impl Cursor<'_> {
    /// Returns the position at which the stream ends, after creating the stream if there is none and verifying
    /// its last messages: all after position `published`, or the last [`IN_FLIGHT_MAX`] if there are more.
    /// Those may have been in flight together, and a foreign message may have taken the place of one of them:
    /// the later ones are stored all the same.
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
        // Events past retention are known to the stream alone; before the epoch are messages that it abandoned.
        let looked_at = if zoo::has("only-the-last-message-is-compared") { 1 } else { IN_FLIGHT_MAX };
        let known = (oldest - 1).max(current.first_position - 1).max(position - looked_at);
        // If the stream has lost its tail, the messages in its place may be foreign.
        let after = if published <= position { known.max(published) } else { known };
        self.check_tail(connection, &stream, current, (after, position)).await?;
        Ok((position, epochs))
    }

    /// Verifies that the messages after position `after`, up to `last`, are our events. One that is missing was
    /// purged.
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
        .in_time()
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
        if let Some(stream) = stream::ours(self.nats, self.outlet, &name).await? {
            return Ok(stream);
        }
        let (_, head) = outbox::bounds(connection, self.shard).await?;
        if head > 0 {
            tracing::warn!(stream = name, "the stream is missing: it is recreated unless it comes back");
            sleep(MISSING_FOR).await;
        }
        Ok(stream::of_shard(self.nats, self.outlet, self.shard, self.replicas).await?)
    }

    /// The id and epoch of the message at `sequence`; `None` when the stream does not hold it.
    pub(crate) async fn message(
        &self,
        stream: &Stream,
        sequence: i64,
    ) -> Result<Option<MessageName>, StreamError> {
        if sequence < 1 {
            return Ok(None);
        }
        // Asks the stream's leader; a direct get may be answered by a replica that lags.
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
                .in_time()
                .await?;
        Ok(id.map(Ulid::from))
    }
}
