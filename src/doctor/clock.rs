//! Clocks: that of Redis decides when a campaign opens and closes, that of Postgres when a coupon expires, and that of
//! this process how long a closed campaign's gate is still asked.

use std::time::Instant;

use time::{Duration, OffsetDateTime};

use super::finding::Finding;

/// How far a server's clock may be from that of this process: so no two servers are a second apart.
const APART_MAX: Duration = Duration::milliseconds(500);

/// Compares the time that a server answers with our own, taken halfway between question and answer.
pub(super) async fn compare<E>(
    server: &'static str,
    answer: impl Future<Output = Result<OffsetDateTime, E>>,
) -> Result<Finding, E> {
    let (asked_at, asked) = (OffsetDateTime::now_utc(), Instant::now());
    let theirs = answer.await?;
    let apart = theirs - (asked_at + asked.elapsed() / 2);
    let found = format!("{} ms ahead of this process", apart.whole_milliseconds());
    Ok(Finding::of(server, "clock", found).bad_unless(
        apart.abs() < APART_MAX,
        "Campaigns open and close by the clock of Redis, and coupons expire by that of Postgres. Run NTP on all \
         machines.",
    ))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::doctor::Health;

    #[tokio::test]
    async fn half_a_second_is_too_far_apart() -> Result<(), Infallible> {
        for (apart, health) in [(-600, Health::Bad), (-300, Health::Ok), (0, Health::Ok), (600, Health::Bad)]
        {
            let theirs = OffsetDateTime::now_utc() + Duration::milliseconds(apart);
            let finding = compare("redis", std::future::ready(Ok::<_, Infallible>(theirs))).await?;
            assert_eq!(finding.health, health, "{finding}");
        }
        Ok(())
    }
}
