//! Latency from the commit to the stream, at a steady rate.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::OrderedConfig;
use coupon_dispatcher::event::OUTLET;
use futures_util::StreamExt as _;
use outbox_relay::{RelayStatus, stream};
use tokio::sync::watch;
use tokio::time::interval;

use crate::SHARD;
use crate::appender::Appender;
use crate::running::{RunningRelay, Site, stored};

/// 100 events every 10 ms: 10,000 events per second.
const BATCH_EVENTS: usize = 100;
const INTERVAL_MS: u64 = 10;

#[derive(Debug)]
pub(crate) struct Pace {
    /// From each commit until a reader of the stream receives the batch's last event.
    pub(crate) read_ms: Vec<f64>,
    /// From each commit until the relay reports that the stream has the batch's last event.
    pub(crate) told_ms: Vec<f64>,
    /// Achieved rate ÷ requested rate.
    pub(crate) kept: f64,
}

/// A position, and when it was committed or seen.
type Moment = (i64, Instant);

/// Appends batches for `seconds`, and wakes the relay after each, as the writer does.
pub(crate) async fn measure(site: &Site, seconds: u64) -> Result<Pace> {
    let mut appender = Appender::connect(&site.database).await?;
    let mut relay = RunningRelay::start(site).await?;
    let first = appender.append(BATCH_EVENTS).await?.last;
    stored(&mut relay.status, first).await?;

    let batches = seconds * 1_000 / INTERVAL_MS;
    let end = first + (batches * BATCH_EVENTS as u64).cast_signed();
    let told = tokio::spawn(tell(relay.status.clone(), end));
    let read = tokio::spawn(read(site.nats().await?, first, end));
    let mut committed: Vec<Moment> = Vec::new();
    let mut ticks = interval(Duration::from_millis(INTERVAL_MS));
    let started = Instant::now();
    for _ in 0..batches {
        ticks.tick().await; // a late tick is followed by shorter ones
        let batch = appender.append(BATCH_EVENTS).await?;
        relay.wake.notify_one();
        committed.push((batch.last, batch.at));
    }
    let kept = seconds as f64 / started.elapsed().as_secs_f64();
    stored(&mut relay.status, end).await?;
    println!("{batches} batches of {BATCH_EVENTS}, one every {INTERVAL_MS} ms");
    let read_ms = waits_ms(&committed, &read.await??);
    let told_ms = waits_ms(&committed, &told.await??);
    Ok(Pace { read_ms, told_ms, kept })
}

/// The relay's reported positions, each when it was reported.
async fn tell(mut status: watch::Receiver<RelayStatus>, end: i64) -> Result<Vec<Moment>> {
    let mut seen = Vec::new();
    loop {
        let stored = status.borrow_and_update().published;
        seen.push((stored, Instant::now()));
        if stored >= end {
            return Ok(seen);
        }
        status.changed().await?;
    }
}

/// The positions that the stream delivers to a reader, each when it arrived. Headers only.
async fn read(nats: async_nats::Client, after: i64, end: i64) -> Result<Vec<Moment>> {
    let stream = stream::of_shard(&nats, &OUTLET, SHARD, 1).await?;
    let config = OrderedConfig {
        deliver_subject: nats.new_inbox(),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after.cast_unsigned() + 1 },
        headers_only: true,
        ..Default::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let mut seen = Vec::new();
    loop {
        let message = messages.next().await.context("the stream delivers no more")??;
        let position = message.info().map_err(anyhow::Error::msg)?.stream_sequence.cast_signed();
        seen.push((position, Instant::now()));
        if position >= end {
            return Ok(seen);
        }
    }
}

/// The time from each commit until its position was first seen.
fn waits_ms(committed: &[Moment], seen: &[Moment]) -> Vec<f64> {
    let first_seen = |last| seen[seen.partition_point(|(position, _)| *position < last)].1;
    let waits = committed.iter().map(|(last, at)| first_seen(*last).saturating_duration_since(*at));
    waits.map(|wait| wait.as_secs_f64() * 1_000.0).collect()
}
