//! The outbox and its relay, with private servers, everything on one machine, from an empty database
//! on. Figures of one machine mean little; their ratios are what counts:
//!
//! * a backlog is drained, measured against the same messages published without an outbox, before and after;
//! * from the commit to the stream, at a steady rate;
//! * what appending costs, by itself and within `issue_batch()`;
//! * what stays behind in the tables, what retention takes away, and what many partitions cost.
//!
//! `BENCH_EVENTS` says how large the backlog is (1,000,000; that many messages are also held in memory,
//! about 2 GB), `BENCH_SECONDS` how long the steady rate lasts (10).

#![expect(clippy::cast_precision_loss, reason = "far below 2^52")]

mod appender;
mod backlog;
mod bloat;
mod cost;
mod pace;
mod partitions;
mod report;
mod running;
mod support;

use anyhow::Result;
use outbox_relay::Shard;

use crate::report::{heading, line, number};
use crate::running::Site;

const SHARD: Shard = Shard(0);

#[tokio::main]
async fn main() -> Result<()> {
    let events = number("BENCH_EVENTS", 1_000_000);
    let seconds = number("BENCH_SECONDS", 10);
    let site = Site::start().await?;

    println!("a backlog of {events} events");
    let backlog = backlog::measure(&site, events).await?;
    println!("\nat a steady rate for {seconds} s");
    let mut pace = pace::measure(&site, seconds).await?;
    println!("\nwhat appending costs, in us an event, median of {} batches", cost::BATCHES);
    let cost = cost::measure(&site).await?;
    println!("\nwhat stays behind");
    let bloat = bloat::measure(&site).await?;
    println!("\nmany partitions, medians in us");
    let partitions = partitions::measure(&site).await?;

    heading();
    line("drained, thousand events/s", backlog.drained / 1_000.0, ">= 60");
    line("drained to plainly published, events/s", backlog.drained / backlog.plain, ">= 0.5");
    line("commit to a reader of the stream, p50, ms", quantile(&mut pace.read_ms, 500), "");
    line("commit to a reader of the stream, p99, ms", quantile(&mut pace.read_ms, 990), "< 20");
    line("commit to a reader of the stream, longest, ms", quantile(&mut pace.read_ms, 1_000), "");
    line("commit to the status of the relay, p50, ms", quantile(&mut pace.told_ms, 500), "");
    line("commit to the status of the relay, p99, ms", quantile(&mut pace.told_ms, 990), "");
    line("rate that was kept to rate that was asked for", pace.kept, "~ 1");
    line("outbox_append() within issue_batch() to append by itself", cost.to_alone, "< 1");
    line("outbox_append() within issue_batch(), share of its time", cost.within, "");
    line("the same, of the whole call with its commit", cost.of_the_call, "");
    line("rows of the outbox updated, deleted or dead", bloat.changed, "= 0");
    line("size of the outbox after retention to before", bloat.left, "~ 0");
    for state in &partitions[1..] {
        let (name, few) = (&state.name, &partitions[0]);
        line(&format!("append of 100, {name} to {}", few.name), state.append_us / few.append_us, "~ 1");
        line(&format!("outbox_head(), {name} to {}", few.name), state.head_us / few.head_us, "~ 1");
        line(&format!("reading 100, {name} to {}", few.name), state.read_us / few.read_us, "~ 1");
    }
    Ok(())
}

/// The value below which so many of a thousand are, of values that are not empty.
fn quantile(values: &mut [f64], thousandths: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get((values.len() * thousandths / 1_000).min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}
