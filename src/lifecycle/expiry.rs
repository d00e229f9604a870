//! Makes coupons expire whose time has come, by the clock of the database: a walk along the coupons of each campaign, in the
//! order of their numbers, which is the order of their ends. Every process may run one.
//!
//! A campaign's row tells how far the walk has come and when there may be more to do. Who takes a campaign up moves that
//! time on by a lease of 10 s, so that others leave it alone; a process that dies loses the lease and nothing else. A coupon is
//! judged again where it is written: one that was redeemed at that moment stays redeemed.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use outbox_relay::Shard;
use outbox_relay::sqlstate::is_gone;
use outbox_relay::zoo;
use sqlx::FromRow;
use time::OffsetDateTime;
use tokio::time::sleep;

use super::{Lifecycle, Outcome};
use crate::coupon::changing::candidates;
use crate::ids::CampaignId;
use crate::pool::Pool;
use crate::storage::{StorageError, prepared};
use crate::trouble::Troubles;
use crate::writer::WriteError;

/// From one look for campaigns to the next, when the last one has found none.
const INTERVAL: Duration = Duration::from_secs(1);
/// For how long a process has a campaign to itself.
const LEASE: &str = "10 seconds";
/// Campaigns that are taken up at a time.
const CAMPAIGNS: i64 = 64;
/// Campaigns whose coupons are written at the same time: each may have a batch of a writer.
const AT_ONCE: usize = 4;
/// Coupons of a campaign that are looked at, at a time. Ends may be out of order within these, as after a clock was set back.
const COUPONS: i64 = 1_000;
/// A campaign is looked at again after this time, whatever its row says: the clock may have been wrong.
const LOOK_INTERVAL: &str = "1 hour";

/// Why coupons of a campaign did not expire. The next rounds retry.
#[derive(Debug, thiserror::Error)]
enum ExpiryError {
    #[error("write that coupons expire")]
    Write(#[from] WriteError),
    #[error("read coupons that are due")]
    Storage(#[from] StorageError),
}

impl From<sqlx::Error> for ExpiryError {
    fn from(error: sqlx::Error) -> Self {
        Self::Storage(error.into())
    }
}

/// A campaign that is taken up.
#[derive(Debug, FromRow)]
struct Due {
    id: CampaignId,
    shard: Shard,
    /// The walk has come to this number.
    expired_up_to: i32,
    /// It was closed when it was taken up: no coupon has come since.
    is_closed: bool,
}

/// Makes coupons expire until it is dropped.
pub async fn run(pool: Pool, lifecycle: Lifecycle, mut troubles: Troubles) -> Infallible {
    let mut failed = false;
    loop {
        let taken_up = match take_up(&pool).await {
            Ok(campaigns) => {
                failed = false;
                campaigns
            }
            Err(error) => {
                let (is_gone, error) = (is_gone(&error), &error as &dyn std::error::Error);
                if failed || is_gone {
                    tracing::debug!(error, "coupons that are due do not expire"); // of an outage the writers tell
                } else {
                    tracing::warn!(error, "coupons that are due do not expire");
                    failed = true;
                }
                Vec::new()
            }
        };
        let is_idle = taken_up.is_empty();
        let walks = taken_up.into_iter().map(async |due| (due.id, expire(&pool, &lifecycle, &due).await));
        let walked: Vec<_> = stream::iter(walks).buffer_unordered(AT_ONCE).collect().await;
        for (campaign, result) in walked {
            if let Err(error) = result {
                troubles.report(campaign, &error);
            }
        }
        if is_idle {
            sleep(INTERVAL).await;
        }
    }
}

/// Takes up campaigns whose time has come. Nobody else does for the time of a lease.
async fn take_up(pool: &Pool) -> Result<Vec<Due>, sqlx::Error> {
    let take_up = "UPDATE campaigns SET expiry_due_at = clock_timestamp() + $1::interval \
                   WHERE id IN (SELECT id FROM campaigns WHERE expiry_due_at <= clock_timestamp() \
                                ORDER BY expiry_due_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED) \
                   RETURNING id, shard, expired_up_to, state = 'closed' AS is_closed";
    prepared!(pool, |connection| sqlx::query_as(take_up).bind(LEASE).bind(CAMPAIGNS).fetch_all(connection))
}

/// Makes the coupons of a campaign expire that are due among the next [`COUPONS`], and notes how far the walk has come.
async fn expire(pool: &Pool, lifecycle: &Lifecycle, due: &Due) -> Result<(), ExpiryError> {
    let mut candidates = candidates(pool, due.id, due.expired_up_to, COUPONS).await?;
    if zoo::has("expiry-by-the-wrong-clock") {
        for coupon in &mut candidates {
            coupon.is_due = coupon.expires_at <= OffsetDateTime::now_utc();
        }
    }
    let expiring = candidates.iter().filter(|coupon| coupon.is_due && !coupon.has_ended);
    let outcomes = join_all(expiring.map(|coupon| lifecycle.expire(coupon.id, due.id, due.shard))).await;
    for outcome in outcomes {
        match outcome? {
            Outcome::Changed(..) | Outcome::Refused(..) => {}
            unexpected => tracing::error!(?unexpected, campaign = %due.id, "a coupon did not expire"),
        }
    }
    let passed = candidates.iter().take_while(|coupon| coupon.is_due).last();
    let reached = passed.map_or(due.expired_up_to, |coupon| coupon.number);
    let next = candidates.iter().filter(|coupon| !coupon.is_due).map(|coupon| coupon.expires_at).min();
    let is_last = i64::try_from(candidates.len()).is_ok_and(|count| count < COUPONS);
    note(pool, due, reached, next, is_last).await?;
    Ok(())
}

/// Notes how far the walk has come, and when to go on: at the end of the `next` coupon, or at once if there are more. Behind
/// the last coupon it goes on when one that is issued from now on can expire; never, if the campaign is closed.
async fn note(
    pool: &Pool,
    due: &Due,
    reached: i32,
    next: Option<OffsetDateTime>,
    is_last: bool,
) -> Result<(), sqlx::Error> {
    let note = "UPDATE campaigns SET expired_up_to = $2, expiry_due_at = CASE \
                    WHEN $3::timestamptz IS NULL AND NOT $4 THEN clock_timestamp() \
                    WHEN $3::timestamptz IS NULL AND $5 THEN NULL \
                    ELSE least(clock_timestamp() + $6::interval, coalesce($3, greatest(clock_timestamp() + interval '1 second', \
                        coalesce(coupon_expires_at, clock_timestamp() + coupon_valid_for * interval '1 second')))) END \
                WHERE id = $1 AND expired_up_to <= $2";
    let query = || {
        let query = sqlx::query(note).bind(due.id).bind(reached).bind(next).bind(is_last);
        query.bind(due.is_closed).bind(LOOK_INTERVAL)
    };
    prepared!(pool, |connection| query().execute(connection)).map(drop)
}
