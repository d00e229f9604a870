//! A backlog, drained by the relay and published plainly.

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
/// Subjects as long as those of the service, in another stream.
const PLAIN: Outlet = Outlet { stream: "PLAINLY", subjects: "plainly", ..OUTLET };
/// As the relay does: one message in so many is acknowledged, and so many are on their way at the most.
const ACKNOWLEDGED_EVERY: usize = 100;
const IN_FLIGHT_MAX: usize = 4_000;

/// Events a second.
#[derive(Debug)]
pub(crate) struct Backlog {
    pub(crate) drained: f64,
    /// The mean of just before and just after.
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

/// From the start of the relay until it says that all is stored.
async fn drain(site: &Site, head: i64) -> Result<f64> {
    let nats = site.nats().await?;
    // As in operation. A relay that finds none waits a second for it to come back.
    stream::of_shard(&nats, &OUTLET, SHARD, 1).await?;
    let mut relay = RunningRelay::start(site).await?;
    let started = Instant::now();
    stored(&mut relay.status, head).await?;
    let drained = rate(head, started);
    let end = stream::end(&nats, &OUTLET.stream_of(SHARD)).await?;
    ensure!(end == head.cast_unsigned(), "the stream ends at {end}, the outbox at {head}");
    Ok(drained)
}

/// The same bytes, from memory, to a stream of the same kind: no outbox, nothing expected of the stream.
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
    ensure!(end == head.cast_unsigned(), "{end} of {head} messages were stored");
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
