//! Measures the outbox and its relay on private servers, starting with an empty database. Absolute figures
//! depend on the machine; compare the ratios:
//!
//! * events per second at which a backlog is drained ÷ the same messages published without an outbox;
//! * latency from the commit to the stream, at a steady rate;
//! * cost of appending, alone and within `issue_batch_2()`;
//! * rows and bytes that stay in the tables, what retention removes, and the cost of many partitions.
//!
//! `BENCH_EVENTS` sets the size of the backlog (1,000,000 events, which are also held in memory: about 2 GB),
//! `BENCH_SECONDS` how long the steady rate lasts (10 s).

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

use crate::report::{heading, line};
use crate::running::Site;
use crate::support::number;

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
    println!("\ncost of appending, us per event, median of {} batches", cost::BATCHES);
    let cost = cost::measure(&site).await?;
    println!("\nrows and bytes left in the tables");
    let bloat = bloat::measure(&site).await?;
    println!("\nmany partitions, medians in us");
    let partitions = partitions::measure(&site).await?;

    heading();
    line("drained, thousand events/s", backlog.drained / 1_000.0, ">= 60");
    line("drained ÷ published without an outbox, events/s", backlog.drained / backlog.plain, ">= 0.5");
    line("commit to a reader of the stream, p50, ms", quantile(&mut pace.read_ms, 500), "");
    line("commit to a reader of the stream, p99, ms", quantile(&mut pace.read_ms, 990), "< 20");
    line("commit to a reader of the stream, longest, ms", quantile(&mut pace.read_ms, 1_000), "");
    line("commit to the report of the relay, p50, ms", quantile(&mut pace.told_ms, 500), "");
    line("commit to the report of the relay, p99, ms", quantile(&mut pace.told_ms, 990), "");
    line("achieved rate ÷ requested rate", pace.kept, "~ 1");
    line("outbox_append_2() within issue_batch_2() ÷ append alone", cost.to_alone, "< 1");
    line("outbox_append_2() ÷ issue_batch_2(), time", cost.within, "");
    line("outbox_append_2() ÷ whole call with its commit, time", cost.of_the_call, "");
    line("rows of the outbox updated, deleted or dead", bloat.changed, "= 0");
    line("size of the outbox after retention ÷ before", bloat.left, "~ 0");
    for state in &partitions[1..] {
        let (name, few) = (&state.name, &partitions[0]);
        line(&format!("append of 100, {name} ÷ {}", few.name), state.append_us / few.append_us, "~ 1");
        line(&format!("outbox_head(), {name} ÷ {}", few.name), state.head_us / few.head_us, "~ 1");
        line(&format!("reading 100, {name} ÷ {}", few.name), state.read_us / few.read_us, "~ 1");
    }
    Ok(())
}

/// The value below which `thousandths` of 1,000 values are; 0 of no values.
fn quantile(values: &mut [f64], thousandths: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get((values.len() * thousandths / 1_000).min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}
