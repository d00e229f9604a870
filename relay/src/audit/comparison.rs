//! Compares outbox and stream event by event: position, id, subject and body.

use std::vec;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::Message;
use async_nats::{Client, HeaderMap};
use sqlx::PgConnection;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::difference::EventDifference;
use super::error::AuditError;
use super::messages::Messages;
use crate::epoch::Epochs;
use crate::event::StoredEvent;
use crate::outlet::{Outlet, Shard};
use crate::stream;

/// Events read from the outbox at a time.
const COMPARED_EVENTS: i64 = 1_000;
/// Batches of each side that wait to be compared. The batch being compared, those waiting and the one being
/// read are all that memory holds.
const BATCHES_AHEAD: usize = 1;

/// The result of comparing a part of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Events that are on both sides, different ones included.
    pub compared: u64,
    /// Events of the outbox that the stream does not hold.
    pub missing: u64,
    /// Messages of the stream that the outbox does not hold.
    pub extra: u64,
    /// Events whose id, subject or body differs between the sides.
    pub different: u64,
    /// The first of these differences.
    pub first_difference: Option<EventDifference>,
}

impl Comparison {
    fn note(&mut self, difference: impl FnOnce() -> EventDifference) {
        if self.first_difference.is_none() {
            self.first_difference = Some(difference());
        }
    }
}

/// The events of a shard after position `after`, up to and including `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardPart {
    pub shard: Shard,
    pub after: i64,
    pub until: i64,
}

/// Compares the events of a part, and continues after a difference. Both sides are read in order and
/// concurrently, in batches; after each batch `progress` gets the number of positions read.
///
/// # Errors
/// See [`AuditError`].
pub async fn compare(
    connection: &mut PgConnection,
    nats: &Client,
    outlet: &Outlet,
    part: ShardPart,
    progress: impl FnMut(u64),
) -> Result<Comparison, AuditError> {
    let name = outlet.stream_of(part.shard);
    let epochs = Epochs::read(connection, part.shard).await?;
    let (event_batches, events) = mpsc::channel(BATCHES_AHEAD);
    let (message_batches, messages) = mpsc::channel(BATCHES_AHEAD);
    let read_outbox = read_outbox(connection, part, event_batches, progress);
    let place = Place { outlet, shard: part.shard, stream: &name, epochs: &epochs };
    let merge = merge(&place, Side::new(events), Side::new(messages));
    let Some(stream) = stream::ours(nats, outlet, &name).await? else {
        drop(message_batches);
        return tokio::try_join!(read_outbox, merge).map(|((), comparison)| comparison);
    };
    let mut stored = Messages::from(stream, epochs.sequence_of(part.after + 1)).await?;
    let read_stream = read_stream(&mut stored, &epochs, part.until, message_batches);
    let compared = tokio::try_join!(read_outbox, read_stream, merge);
    stored.close().await;
    let ((), (), comparison) = compared?;
    Ok(comparison)
}

/// Ends early when the receiver is gone: that side has failed, and returns the error.
async fn read_outbox(
    connection: &mut PgConnection,
    ShardPart { shard, mut after, until }: ShardPart,
    batches: Sender<Vec<StoredEvent>>,
    mut progress: impl FnMut(u64),
) -> Result<(), AuditError> {
    while after < until {
        let end = until.min(after + COMPARED_EVENTS);
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
        // Messages that an epoch has abandoned are not compared.
        messages.retain(|(sequence, _)| *sequence <= end && epochs.place_of(*sequence).is_some());
        if batches.send(messages).await.is_err() || last.is_none_or(|last| last >= end) {
            return Ok(());
        }
    }
}

/// One side, item by item.
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

/// The names and epochs of the shard that is compared.
struct Place<'a> {
    outlet: &'a Outlet,
    shard: Shard,
    stream: &'a str,
    epochs: &'a Epochs,
}

/// Walks both sides in order of sequence.
async fn merge(
    place: &Place<'_>,
    mut events: Side<StoredEvent>,
    mut messages: Side<(i64, Message)>,
) -> Result<Comparison, AuditError> {
    let mut found = Comparison::default();
    let (mut event, mut message) = (events.next().await, messages.next().await);
    loop {
        match (&event, &message) {
            (Some(in_outbox), Some((sequence, in_stream))) if place.sequence_of(in_outbox) == *sequence => {
                found.compared += 1;
                if let Some(difference) = place.differs(in_outbox, in_stream) {
                    found.different += 1;
                    found.note(|| difference);
                }
                event = events.next().await;
                message = messages.next().await;
            }
            (Some(in_outbox), next)
                if next.as_ref().is_none_or(|(sequence, _)| place.sequence_of(in_outbox) < *sequence) =>
            {
                found.missing += 1;
                found.note(|| place.missing(in_outbox, next.as_ref()));
                event = events.next().await;
            }
            (_, Some((sequence, in_stream))) => {
                found.extra += 1;
                found.note(|| place.extra(*sequence, in_stream));
                message = messages.next().await;
            }
            (_, None) => return Ok(found),
        }
    }
}

impl Place<'_> {
    fn sequence_of(&self, event: &StoredEvent) -> i64 {
        self.epochs.sequence_of(event.position)
    }

    /// How an event differs from the message in its place.
    fn differs(&self, event: &StoredEvent, message: &Message) -> Option<EventDifference> {
        let StoredEvent { position, id: event_id, kind, key, .. } = event;
        let (shard, position, event_id, stream) = (self.shard, *position, *event_id, self.stream.to_owned());
        let found = message_id(message.headers.as_ref());
        if found != Some(&*self.epochs.of_position(position).message_id(event_id)) {
            let found = found.map(ToOwned::to_owned);
            return Some(EventDifference::OtherEvent { shard, position, stream, expected: event_id, found });
        }
        let (expected, found) = (self.outlet.subject(kind, key, shard), message.subject.as_str());
        if found != expected {
            let found = found.to_owned();
            let event = event_id;
            return Some(EventDifference::OtherSubject { shard, position, stream, event, expected, found });
        }
        let same = message.payload == event.body(self.outlet);
        (!same).then_some(EventDifference::OtherBody { shard, position, stream, event: event_id })
    }

    fn missing(&self, event: &StoredEvent, next: Option<&(i64, Message)>) -> EventDifference {
        let id = |message: &Message| message_id(message.headers.as_ref()).map(ToOwned::to_owned);
        EventDifference::Missing {
            shard: self.shard,
            position: event.position,
            stream: self.stream.to_owned(),
            expected: event.id,
            next: next.map(|(sequence, message)| (*sequence, id(message))),
        }
    }

    fn extra(&self, sequence: i64, message: &Message) -> EventDifference {
        let found = message_id(message.headers.as_ref()).map(ToOwned::to_owned);
        EventDifference::Extra { shard: self.shard, stream: self.stream.to_owned(), sequence, found }
    }
}

fn message_id(headers: Option<&HeaderMap>) -> Option<&str> {
    headers?.get(NATS_MESSAGE_ID).map(async_nats::HeaderValue::as_str)
}
