//! Dead letters: the messages of stream `<stream>-DEAD`.

use async_nats::Client;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::LastRawMessageErrorKind;

use super::parked::Parked;
use crate::event::{EVENT_ID_HEADER, Event, POSITION_HEADER, SHARD_HEADER};
use crate::outlet::{Outlet, Shard};
use crate::stream::{self, StreamError};

/// Header with the name of the projection that could not apply the event.
pub const PROJECTION_HEADER: &str = "Dead-Projection";
/// Header with the reason why it could not, in one line.
pub const REASON_HEADER: &str = "Dead-Reason";
/// Header with the number of attempts.
pub const ATTEMPTS_HEADER: &str = "Dead-Attempts";

/// Publishes the letter of a parked event, unless the stream has it.
pub(crate) async fn publish(
    nats: &Client,
    outlet: &Outlet,
    parked: &Parked,
    event: &Event,
) -> Result<(), StreamError> {
    stream::of_dead(nats, outlet).await?;
    let Parked { projection, shard, position, event_id, reason, attempts, .. } = parked;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, format!("{event_id}.{projection}"));
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
    headers.insert(EVENT_ID_HEADER, event_id.to_string());
    headers.insert(SHARD_HEADER, shard.to_string());
    headers.insert(POSITION_HEADER, position.to_string());
    headers.insert(PROJECTION_HEADER, projection.as_str());
    headers.insert(REASON_HEADER, reason.as_str());
    headers.insert(ATTEMPTS_HEADER, attempts.to_string());
    let subject = outlet.dead_subject(projection, *shard, *position);
    let error = |error: jetstream::context::PublishError| StreamError::new(&outlet.dead_stream(), &error);
    let sent = jetstream::new(nats.clone()).publish_with_headers(subject, headers, event.body.clone()).await;
    match sent.map_err(error)?.await {
        Ok(_) => Ok(()),
        // The stream has it.
        Err(refused) if refused.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
        Err(refused) => Err(error(refused)),
    }
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
    let letters = stream::counts(nats, &outlet.dead_stream(), &format!("{prefix}.*")).await?;
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
    let Some(stream) = stream::existing(nats, &name).await? else { return Ok(()) };
    let purged = stream.purge().filter(outlet.dead_subject(projection, shard, position)).await;
    purged.map(drop).map_err(|error| StreamError::new(&name, &error))
}
