//! Idempotency keys in Postgres. Those of claims are written by `issue_batch_2()`, all others here.

use std::convert::Infallible;
use std::time::Duration;

use outbox_relay::in_time::InTime as _;
use outbox_relay::sqlstate::is_gone;
use sqlx::PgConnection;
use tokio::time::sleep;

use super::{KeyError, Keyed, Recorded};
use crate::coupon::Coupon;
use crate::coupon::store::ByKey;
use crate::lookup::Lookups;
use crate::pool::Pool;
use crate::storage::{StorageError, prepared};

/// From one look for keys that are old enough to the next.
const INTERVAL: Duration = Duration::from_secs(600);

/// The answer that an earlier request with this key had; nothing if this is the first. No other transaction passes with
/// the same key until this one ends, so call it first in the transaction of the effect, and [`record`] last.
///
/// # Errors
/// [`KeyError::InUse`] while another transaction has passed, [`KeyError::Reused`] when the earlier request was another.
pub async fn begin(transaction: &mut PgConnection, keyed: &Keyed) -> Result<Option<Recorded>, KeyError> {
    let (lock, _) = keyed.key().as_u64_pair();
    let is_free: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
        .bind(lock.cast_signed())
        .fetch_one(&mut *transaction)
        .in_time()
        .await?;
    if !is_free {
        return Err(KeyError::InUse);
    }
    // In a statement of its own, behind the lock: it sees what the transaction before has committed.
    let kept: Option<(Vec<u8>, i16, Option<String>, String)> =
        sqlx::query_as("SELECT request_hash, status, location, body FROM idempotency_keys WHERE key = $1")
            .bind(keyed.key())
            .fetch_optional(transaction)
            .in_time()
            .await?;
    let Some((request, status, location, body)) = kept else { return Ok(None) };
    if request != keyed.request() {
        return Err(KeyError::Reused);
    }
    Ok(Some(Recorded { status: status.unsigned_abs(), location, body }))
}

/// Keeps the answer of the first request with this key, in the transaction of its effect.
pub async fn record(
    transaction: &mut PgConnection,
    keyed: &Keyed,
    answer: &Recorded,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO idempotency_keys (slot, key, request_hash, status, location, body) \
         VALUES (idempotency_slot(now()), $1, $2, $3, $4, $5)",
    )
    .bind(keyed.key())
    .bind(keyed.request().as_slice())
    .bind(answer.status.cast_signed())
    .bind(&answer.location)
    .bind(&answer.body)
    .execute(transaction)
    .in_time()
    .await
    .map(drop)
}

/// Removes old keys until it is dropped. Every process may do so.
pub async fn run(pool: Pool) -> Infallible {
    loop {
        if let Err(error) = remove_old(&pool).await {
            let (is_gone, error) = (is_gone(&error), &error as &dyn std::error::Error);
            let what = "old idempotency keys are not removed: the next attempt is in 10 minutes";
            if is_gone {
                tracing::debug!(error, "{what}"); // of an outage the writers tell
            } else {
                tracing::warn!(error, "{what}");
            }
        }
        sleep(INTERVAL).await;
    }
}

/// Removes the keys of the day before yesterday. Returns whether there were any.
async fn remove_old(pool: &Pool) -> Result<bool, sqlx::Error> {
    prepared!(pool, |connection| sqlx::query_scalar("SELECT idempotency_remove_old()").fetch_one(connection))
}

/// Coupons of earlier claims, by the keys of the claims. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Claimed(Lookups<ByKey>);

impl Claimed {
    /// Starts a task, which ends when the last clone of this is dropped.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self(Lookups::start(pool))
    }

    /// The coupon that an earlier claim with this key got, as it was issued; to whichever user.
    pub async fn coupon(&self, keyed: &Keyed) -> Result<Option<Coupon>, StorageError> {
        self.0.get(keyed.key()).await
    }
}

impl From<sqlx::Error> for KeyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Storage(StorageError::from(error))
    }
}
