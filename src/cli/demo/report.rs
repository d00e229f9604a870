//! What became of a rush, as lines.

use super::super::print::say;
use crate::rush::Results;

/// Prints it. `missing` is how many of the promised coupons do not exist.
pub(super) fn report(results: &Results, missing: usize) -> std::io::Result<()> {
    let ms = |share| results.latency(share).as_secs_f64() * 1_000.0;
    say(format_args!("offered    {:>8} requests", results.offered))?;
    say(format_args!(
        "achieved   {:>8.0} requests/s for {:.1} s",
        results.rate(),
        results.took.as_secs_f64()
    ))?;
    say(format_args!("issued     {:>8}", results.issued))?;
    say(format_args!("duplicates {:>8} shown the coupon they hold", results.already_issued))?;
    say(format_args!("sold out   {:>8}", results.sold_out))?;
    say(format_args!("retried    {:>8} told to ask again", results.retried))?;
    say(format_args!("errors     {:>8}", results.errors))?;
    say(format_args!("promised   {:>8} coupons, missing {missing}", results.promised.len()))?;
    say(format_args!(
        "latency    {:>8.1} ms p50, {:.1} p95, {:.1} p99, {:.1} max",
        ms(0.5),
        ms(0.95),
        ms(0.99),
        ms(1.0)
    ))
}
