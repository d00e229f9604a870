//! Event by event: every position on both sides, its id, subject and body.

use std::vec;

use async_nats::jetstream::Message;
use async_nats::{Client, HeaderMap};
use sqlx::PgConnection;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::AuditError;
use super::messages::Messages;
use crate::epoch::Epochs;
use crate::event::StoredEvent;
use crate::outlet::{Outlet, Shard};
use crate::stream;

/// Read of the outbox at a time.
const BATCH_EVENTS: i64 = 1_000;
/// Batches of each side that wait to be compared. What is compared, what waits and what is read are
/// all that is held in memory.
const BATCHES_AHEAD: usize = 1;

/// What the comparison of a part of a shard found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Events that are on both sides.
    pub compared: u64,
    /// Events of the outbox that the stream does not hold.
    pub missing: u64,
    /// Messages of the stream that the outbox does not hold.
    pub extra: u64,
    /// Events on both sides that are not the same.
    pub different: u64,
    /// The first of all these differences.
    pub first_difference: Option<String>,
}

impl Comparison {
    fn note(&mut self, difference: impl FnOnce() -> String) {
        if self.first_difference.is_none() {
            self.first_difference = Some(difference());
        }
    }
}

/// Compares the events behind position `after`, up to and including `until`, and goes on over
/// whatever differs. Both sides are read in order and at the same time, in batches; after each one
/// `progress` is told how many positions that were.
///
/// # Errors
/// See [`AuditError`].
pub async fn compare(
    connection: &mut PgConnection,
    nats: &Client,
    outlet: &Outlet,
    shard: Shard,
    (after, until): (i64, i64),
    progress: impl FnMut(u64),
) -> Result<Comparison, AuditError> {
    let name = outlet.stream_of(shard);
    let epochs = Epochs::read(connection, shard).await?;
    let (event_batches, events) = mpsc::channel(BATCHES_AHEAD);
    let (message_batches, messages) = mpsc::channel(BATCHES_AHEAD);
    let read_outbox = read_outbox(connection, shard, (after, until), event_batches, progress);
    let merge = merge(outlet, &name, &epochs, Side::new(events), Side::new(messages));
    let Some(stream) = stream::existing(nats, &name).await? else {
        drop(message_batches);
        return tokio::try_join!(read_outbox, merge).map(|((), comparison)| comparison);
    };
    let mut stored = Messages::from(stream, epochs.sequence_of(after + 1)).await?;
    let read_stream = read_stream(&mut stored, &epochs, until, message_batches);
    let compared = tokio::try_join!(read_outbox, read_stream, merge);
    stored.close().await;
    let ((), (), comparison) = compared?;
    Ok(comparison)
}

/// A side that is gone has failed, and is asked why.
async fn read_outbox(
    connection: &mut PgConnection,
    shard: Shard,
    (mut after, until): (i64, i64),
    batches: Sender<Vec<StoredEvent>>,
    mut progress: impl FnMut(u64),
) -> Result<(), AuditError> {
    while after < until {
        let end = until.min(after + BATCH_EVENTS);
        let events = StoredEvent::between(connection, shard, after, end).await?;
        if batches.send(events).await.is_err() {
            break;
        }
        progress((end - after).unsigned_abs());
        after = end;
    }
    Ok(())
}

async fn read_stream(
    stored: &mut Messages,
    epochs: &Epochs,
    until: i64,
    batches: Sender<Vec<(i64, Message)>>,
) -> Result<(), AuditError> {
    let end = epochs.sequence_of(until);
    loop {
        let mut messages = stored.next(end).await?;
        let last = messages.last().map(|(sequence, _)| *sequence);
        // What an epoch has left behind is not compared.
        messages.retain(|(sequence, _)| *sequence <= end && epochs.place_of(*sequence).is_some());
        if batches.send(messages).await.is_err() || last.is_none_or(|last| last >= end) {
            return Ok(());
        }
    }
}

/// One side, one after the other.
struct Side<T> {
    batches: Receiver<Vec<T>>,
    batch: vec::IntoIter<T>,
}

impl<T> Side<T> {
    fn new(batches: Receiver<Vec<T>>) -> Self {
        Self { batches, batch: Vec::new().into_iter() }
    }

    async fn next(&mut self) -> Option<T> {
        loop {
            let next = self.batch.next();
            if next.is_some() {
                return next;
            }
            self.batch = self.batches.recv().await?.into_iter();
        }
    }
}

/// Walks both sides, aligned by sequence.
async fn merge(
    outlet: &Outlet,
    name: &str,
    epochs: &Epochs,
    mut events: Side<StoredEvent>,
    mut messages: Side<(i64, Message)>,
) -> Result<Comparison, AuditError> {
    let mut found = Comparison::default();
    let (mut event, mut message) = (events.next().await, messages.next().await);
    loop {
        match (&event, &message) {
            (Some(in_outbox), Some((sequence, in_stream)))
                if epochs.sequence_of(in_outbox.position) == *sequence =>
            {
                found.compared += 1;
                if let Some(difference) = differs(outlet, name, epochs, in_outbox, in_stream) {
                    found.different += 1;
                    found.note(|| difference);
                }
                event = events.next().await;
                message = messages.next().await;
            }
            (Some(in_outbox), next)
                if next
                    .as_ref()
                    .is_none_or(|(sequence, _)| epochs.sequence_of(in_outbox.position) < *sequence) =>
            {
                found.missing += 1;
                found.note(|| missing(name, in_outbox, next.as_ref()));
                event = events.next().await;
            }
            (_, Some((sequence, in_stream))) => {
                found.extra += 1;
                found.note(|| extra(name, *sequence, in_stream));
                message = messages.next().await;
            }
            (_, None) => return Ok(found),
        }
    }
}

/// In what an event differs from the message in its place.
fn differs(
    outlet: &Outlet,
    name: &str,
    epochs: &Epochs,
    event: &StoredEvent,
    message: &Message,
) -> Option<String> {
    let StoredEvent { shard, position, id, kind, key, .. } = event;
    let stored = message_id(message.headers.as_ref());
    if stored != epochs.of_position(*position).message_id(*id) {
        return Some(format!(
            "position {position} is event {id} in the outbox and {stored} in stream {name}"
        ));
    }
    let subject = outlet.subject(kind, key, *shard);
    if message.subject.as_str() != subject {
        return Some(format!(
            "position {position}, event {id}, belongs on {subject}; stream {name} has it on {}",
            message.subject
        ));
    }
    (message.payload != event.body(outlet)).then(|| {
        format!("position {position}, event {id}, has another body in stream {name} than in the outbox")
    })
}

fn missing(name: &str, event: &StoredEvent, next: Option<&(i64, Message)>) -> String {
    let StoredEvent { position, id, .. } = event;
    let next = next.map_or_else(
        || "ends before it".to_owned(),
        |(sequence, message)| format!("goes on with {} at {sequence}", message_id(message.headers.as_ref())),
    );
    format!("position {position} is event {id} in the outbox; stream {name} {next}")
}

fn extra(name: &str, sequence: i64, message: &Message) -> String {
    let id = message_id(message.headers.as_ref());
    format!("stream {name} has {id} at {sequence}; the outbox has nothing in that place")
}

fn message_id(headers: Option<&HeaderMap>) -> &str {
    let id = headers.and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID));
    id.map_or("a message without id", async_nats::HeaderValue::as_str)
}
