//! Dead letters: the messages of stream `<stream>-DEAD`.

use std::time::Duration;

use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::{Client, HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::parked::Parked;
use crate::acknowledgement::{self, Said};
use crate::event::{EVENT_ID_HEADER, Event, POSITION_HEADER, SHARD_HEADER};
use crate::outlet::{Outlet, Shard};
use crate::stream::{self, StreamError};

/// Header with the name of the projection that could not apply the event.
pub const PROJECTION_HEADER: &str = "Dead-Projection";
/// Header with the reason why it could not, in one line.
pub const REASON_HEADER: &str = "Dead-Reason";
/// Header with the number of attempts.
pub const ATTEMPTS_HEADER: &str = "Dead-Attempts";

/// For the acknowledgement of a letter: as long as a relay waits for one.
const LETTER_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes the letter of a parked event, unless the stream has it.
pub(crate) async fn publish(
    nats: &Client,
    outlet: &Outlet,
    parked: &Parked,
    event: &Event,
) -> Result<(), StreamError> {
    stream::of_dead(nats, outlet).await?;
    let Parked { projection, shard, position, event_id, reason, attempts, .. } = parked;
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, format!("{event_id}.{projection}"));
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
    headers.insert(EVENT_ID_HEADER, event_id.to_string());
    headers.insert(SHARD_HEADER, shard.to_string());
    headers.insert(POSITION_HEADER, position.to_string());
    headers.insert(PROJECTION_HEADER, projection.as_str());
    headers.insert(REASON_HEADER, reason.as_str());
    headers.insert(ATTEMPTS_HEADER, attempts.to_string());
    let subject = outlet.dead_subject(projection, *shard, *position);
    let stream = outlet.dead_stream();
    let failed = |reason: &str| StreamError::failed(&stream, reason);
    match send(nats, subject, headers, event.body.clone(), &stream).await? {
        Said::Stored { .. } => Ok(()),
        // The stream has it.
        Said::Refused { code, .. } if code == ErrorCode::STREAM_WRONG_LAST_SEQUENCE.0 => Ok(()),
        Said::Refused { description, .. } => Err(failed(&description)),
    }
}

/// Publishes one message, and returns the answer of the stream. Answers of subscribers are ignored.
async fn send(
    nats: &Client,
    subject: String,
    headers: HeaderMap,
    body: Bytes,
    stream: &str,
) -> Result<Said, StreamError> {
    let failed = |reason: &str| StreamError::failed(stream, reason);
    let inbox = nats.new_inbox();
    let subscribed = nats.subscribe(inbox.clone()).await;
    let mut answers = subscribed.map_err(|error| StreamError::new(stream, &error))?;
    let sent = nats.publish_with_reply_and_headers(subject, inbox, headers, body).await;
    sent.map_err(|error| StreamError::new(stream, &error))?;
    let said = async {
        while let Some(answer) = answers.next().await {
            if answer.status == Some(StatusCode::NO_RESPONDERS) {
                return Err(failed("no stream takes the subject"));
            }
            if let Some(said) = acknowledgement::read(&answer.payload, stream) {
                return Ok(said);
            }
        }
        Err(failed("the connection was closed"))
    };
    timeout(LETTER_TIMEOUT, said).await.unwrap_or_else(|_| Err(failed("no acknowledgement in time")))
}

/// The event of a letter; `None` when there is no such letter, or its body is not an event.
pub(super) async fn read(
    nats: &Client,
    outlet: &Outlet,
    (projection, shard, position): (&str, Shard, i64),
) -> Result<Option<Event>, StreamError> {
    let stream = stream::of_dead(nats, outlet).await?;
    let subject = outlet.dead_subject(projection, shard, position);
    match stream.get_last_raw_message_by_subject(&subject).await {
        Ok(letter) => Ok(Event::parse(position, &letter.payload).ok()),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(StreamError::new(&outlet.dead_stream(), &error)),
    }
}

/// The positions of a projection's letters.
pub(super) async fn positions(
    nats: &Client,
    outlet: &Outlet,
    projection: &str,
    shard: Shard,
) -> Result<Vec<i64>, StreamError> {
    let prefix = outlet.dead_subjects(projection, shard);
    let name = outlet.dead_stream();
    stream::ours(nats, outlet, &name).await?;
    let letters = stream::counts(nats, &name, &format!("{prefix}.*")).await?;
    let position = |subject: &str| subject.rsplit('.').next()?.parse().ok();
    Ok(letters.iter().filter_map(|(subject, _)| position(subject)).collect())
}

/// Removes a letter, if there is one.
pub(super) async fn remove(
    nats: &Client,
    outlet: &Outlet,
    (projection, shard, position): (&str, Shard, i64),
) -> Result<(), StreamError> {
    let name = outlet.dead_stream();
    let Some(stream) = stream::ours(nats, outlet, &name).await? else { return Ok(()) };
    let purged = stream.purge().filter(outlet.dead_subject(projection, shard, position)).await;
    purged.map(drop).map_err(|error| StreamError::new(&name, &error))
}
