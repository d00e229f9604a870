//! From the commit to the stream, at a steady rate.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::mpsc;
use tokio::time::interval;

use crate::appender::Appender;
use crate::quantile;
use crate::running::{RunningRelay, Site, stored};

/// 10 thousand events a second.
const BATCH_EVENTS: usize = 100;
const INTERVAL: Duration = Duration::from_millis(10);
const WAITING_MAX: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Pace {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) longest_ms: f64,
    /// Of the rate that was asked for.
    pub(crate) kept: f64,
}

/// The relay is woken as the writer wakes it. A batch is in the stream once the relay says so, which is
/// a way from NATS later than it is true.
pub(crate) async fn measure(site: &Site, seconds: u64) -> Result<Pace> {
    let mut appender = Appender::connect(&site.database).await?;
    let mut relay = RunningRelay::start(site).await?;
    let first = appender.append(BATCH_EVENTS).await?;
    stored(&mut relay.status, first.last).await?;

    let (committed, mut waiting) = mpsc::channel::<(i64, Instant)>(WAITING_MAX);
    let mut status = relay.status.clone();
    let watcher = tokio::spawn(async move {
        let mut waits_ms = Vec::new();
        while let Some((last, at)) = waiting.recv().await {
            stored(&mut status, last).await?;
            waits_ms.push(at.elapsed().as_secs_f64() * 1_000.0);
        }
        anyhow::Ok(waits_ms)
    });
    let asked = Duration::from_secs(seconds);
    let mut ticks = interval(INTERVAL);
    let started = Instant::now();
    for _ in 0..asked.as_millis() / INTERVAL.as_millis() {
        // One that is late is made up for.
        ticks.tick().await;
        let batch = appender.append(BATCH_EVENTS).await?;
        relay.wake.notify_one();
        committed.send((batch.last, batch.at)).await?;
    }
    let kept = asked.as_secs_f64() / started.elapsed().as_secs_f64();
    drop(committed);
    let mut waits_ms = watcher.await??;
    let pace = Pace {
        p50_ms: quantile(&mut waits_ms, 500),
        p99_ms: quantile(&mut waits_ms, 990),
        longest_ms: quantile(&mut waits_ms, 1_000),
        kept,
    };
    println!("{} batches of {BATCH_EVENTS}, one every {INTERVAL:?}", waits_ms.len());
    Ok(pace)
}
