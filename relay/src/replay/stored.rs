//! What the stream of replays holds of a run.

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::{Client, HeaderMap, jetstream};
use futures_util::TryStreamExt as _;
use ulid::Ulid;

use super::run_id::RunId;
use crate::event::{POSITION_HEADER, SHARD_HEADER};
use crate::outlet::{Outlet, Shard};
use crate::stream::{self, StreamError};
use crate::strict::number;

/// The shard and the position of the last message of a run.
pub(super) async fn reached(stream: &Stream, run: &RunId) -> Result<Option<(Shard, i64)>, StreamError> {
    let name = &stream.cached_info().config.name;
    // Asks the stream's leader; a direct get may be answered by a replica that lags.
    let message = match stream.get_last_raw_message_by_subject(&format!("replay.{run}.*.*.*")).await {
        Ok(message) => message,
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
        Err(error) => return Err(StreamError::new(name, &error)),
    };
    let headers = &message.headers;
    if let (Some(shard), Some(position)) = (number(headers, SHARD_HEADER), number(headers, POSITION_HEADER)) {
        return Ok(Some((Shard(shard), position)));
    }
    let reason = format!("{} at {} is not a replayed event", message.subject, message.sequence);
    Err(StreamError::failed(name, reason))
}

/// The number of messages of a run that the stream holds.
///
/// # Errors
/// When NATS does not answer.
pub async fn stored(nats: &Client, outlet: &Outlet, run: &RunId) -> Result<u64, StreamError> {
    let name = outlet.replay_stream();
    let Some(stream) = stream::ours(nats, outlet, &name).await? else { return Ok(0) };
    let failed = |error: &dyn std::error::Error| StreamError::new(&name, error);
    let subjects = stream.info_with_subjects(run.subjects()).await.map_err(|error| failed(&error))?;
    let total = subjects.try_fold(0, async |total, (_, messages)| Ok(total + messages as u64));
    total.await.map_err(|error| failed(&error))
}

/// Removes the messages of a run, those still in flight included, and returns how many.
pub(super) async fn remove(nats: &Client, outlet: &Outlet, run: &RunId) -> Result<u64, StreamError> {
    let name = outlet.replay_stream();
    let failed = |error: &dyn std::error::Error| StreamError::new(&name, error);
    let stream = stream::of_replays(nats, outlet).await?;
    // Publishes a message that moves the stream's end, on a subject that no run has: messages still in flight
    // expect another end. It stays in the stream, and keeps the end, which a 2.9 server forgets when it is
    // killed while the stream is empty.
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, format!("{}.{run}", Ulid::generate()));
    let jetstream = jetstream::new(nats.clone());
    let published = jetstream.publish_with_headers(format!("replay._.{run}"), headers, "".into()).await;
    published.map_err(|error| failed(&error))?.await.map_err(|error| failed(&error))?;
    let purged = stream.purge().filter(run.subjects()).await.map_err(|error| failed(&error))?;
    Ok(purged.purged)
}
