//! A backlog, first published without an outbox and then drained by the relay.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream;
use bytes::Bytes;
use coupon_dispatcher::event::OUTLET;
use futures_util::StreamExt as _;
use outbox_relay::event::StoredEvent;
use outbox_relay::{Outlet, stream};
use sqlx::PgConnection;

use crate::SHARD;
use crate::appender::Appender;
use crate::running::{RunningRelay, Site, stored};

const BATCH_EVENTS: usize = 500;
/// Subjects of the same length as the service's, in a stream of its own.
const PLAIN: Outlet = Outlet { stream: "PLAINLY", subjects: "plainly", ..OUTLET };
/// As in the relay, at most 4,000 messages are in flight. Unlike there, NATS acknowledges one message in 100.
const ACKNOWLEDGED_EVERY: usize = 100;
const IN_FLIGHT_MAX: usize = 4_000;

/// Events per second.
#[derive(Debug)]
pub(crate) struct Backlog {
    pub(crate) drained: f64,
    /// Mean of a run before the drain and a run after it.
    pub(crate) plain: f64,
}

pub(crate) async fn measure(site: &Site, events: u64) -> Result<Backlog> {
    let mut appender = Appender::connect(&site.database).await?;
    let started = Instant::now();
    let mut head = 0_i64;
    while head.cast_unsigned() < events {
        head = appender.append(BATCH_EVENTS).await?.last;
    }
    println!("appended in batches of {BATCH_EVENTS}: {:>26.0} events/s", rate(head, started));
    let before = publish(site, &mut appender.connection, head).await?;
    let drained = drain(site, head).await?;
    let after = publish(site, &mut appender.connection, head).await?;
    println!("plainly published before and after: {before:>12.0} {after:>9.0} events/s");
    println!("drained by the relay: {drained:>36.0} events/s");
    Ok(Backlog { drained, plain: f64::midpoint(before, after) })
}

/// Events per second from the start of the relay until it reports that the stream has all of them.
async fn drain(site: &Site, head: i64) -> Result<f64> {
    let nats = site.nats().await?;
    // The stream exists, as in operation: a relay that finds none waits a second before it creates one.
    stream::of_shard(&nats, &OUTLET, SHARD, 1).await?;
    let mut relay = RunningRelay::start(site).await?;
    let started = Instant::now();
    stored(&mut relay.status, head).await?;
    let drained = rate(head, started);
    let end = stream::end(&nats, &OUTLET.stream_of(SHARD)).await?;
    ensure!(end == head.cast_unsigned(), "the stream ends at {end}, the outbox at {head}");
    Ok(drained)
}

/// Publishes the same bytes from memory to a stream of the same kind, without an outbox and without expected sequences.
async fn publish(site: &Site, connection: &mut PgConnection, head: i64) -> Result<f64> {
    let nats = site.nats().await?;
    let messages = prepare(connection, head).await?;
    let count = messages.len();
    let name = PLAIN.stream_of(SHARD);
    stream::of_shard(&nats, &PLAIN, SHARD, 1).await?;
    let inbox = nats.new_inbox();
    let mut acknowledgements = nats.subscribe(inbox.clone()).await?;
    let mut awaited = 0;
    let started = Instant::now();
    for (number, (subject, headers, body)) in (1..).zip(messages) {
        if number % ACKNOWLEDGED_EVERY == 0 || number == count {
            nats.publish_with_reply_and_headers(subject, inbox.clone(), headers, body).await?;
            awaited += 1;
        } else {
            nats.publish_with_headers(subject, headers, body).await?;
        }
        while awaited * ACKNOWLEDGED_EVERY >= IN_FLIGHT_MAX || number == count && awaited > 0 {
            acknowledgements.next().await.context("the connection was closed")?;
            awaited -= 1;
        }
    }
    let published = rate(head, started);
    let end = stream::end(&nats, &name).await?;
    ensure!(end == head.cast_unsigned(), "the stream has {end} of {head} messages");
    jetstream::new(nats).delete_stream(name).await?;
    Ok(published)
}

type Prepared = (String, HeaderMap, Bytes);

async fn prepare(connection: &mut PgConnection, head: i64) -> Result<Vec<Prepared>> {
    let mut messages = Vec::with_capacity(usize::try_from(head)?);
    let mut bytes = 0;
    while (messages.len() as i64) < head {
        let after = messages.len() as i64;
        for event in StoredEvent::between(connection, SHARD, after, after + BATCH_EVENTS as i64).await? {
            let subject = PLAIN.subject(&event.kind, &event.key, SHARD);
            let body = event.body(&OUTLET);
            bytes += body.len();
            messages.push((subject, event.headers(&event.id.to_string()), body));
        }
    }
    println!("mean size of a body: {:>37} bytes", bytes / messages.len().max(1));
    Ok(messages)
}

fn rate(events: i64, since: Instant) -> f64 {
    events as f64 / since.elapsed().as_secs_f64()
}
