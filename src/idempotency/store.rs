//! Idempotency keys in Postgres: every statement on the table `idempotency_keys` but those of `issue_batch_2()`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use outbox_relay::in_time::InTime as _;
use sqlx::{FromRow, PgConnection};
use tokio::time::sleep;

use super::{Hash, KeyError, Keyed, Recorded};
use crate::coupon::Coupon;
use crate::lookup::{Lookup, Lookups};
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
    let lock = i64::from_be_bytes(std::array::from_fn(|n| keyed.key()[n]));
    let is_free: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
        .bind(lock)
        .fetch_one(&mut *transaction)
        .in_time()
        .await?;
    if !is_free {
        return Err(KeyError::InUse);
    }
    // In a statement of its own, behind the lock: it sees what the transaction before has committed.
    let kept: Option<(Vec<u8>, i16, Option<String>, String)> = sqlx::query_as(
        "SELECT request_hash, status, location, body FROM idempotency_keys WHERE key_hash = $1 AND body IS NOT NULL",
    )
    .bind(keyed.key().as_slice())
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
        "INSERT INTO idempotency_keys (slot, key_hash, request_hash, status, location, body) \
         VALUES (idempotency_slot(now()), $1, $2, $3, $4, $5)",
    )
    .bind(keyed.key().as_slice())
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
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "old idempotency keys are not removed: the next attempt is in 10 minutes");
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

    /// The coupon that an earlier claim with this key got, as it was issued.
    ///
    /// # Errors
    /// [`KeyError::Reused`] when the earlier claim was another.
    pub async fn coupon(&self, keyed: &Keyed) -> Result<Option<Coupon>, KeyError> {
        match self.0.get(*keyed.key()).await? {
            Some(claimed) if claimed.request_hash != keyed.request() => Err(KeyError::Reused),
            claimed => Ok(claimed.map(|claimed| claimed.coupon)),
        }
    }
}

struct ByKey;

#[derive(Clone, FromRow)]
struct ClaimedCoupon {
    key_hash: Vec<u8>,
    request_hash: Vec<u8>,
    #[sqlx(flatten)]
    coupon: Coupon,
}

impl Lookup for ByKey {
    type Key = Hash;
    type Found = ClaimedCoupon;

    const BATCH: usize = 512;

    async fn read(pool: &Pool, keys: &[Hash]) -> Result<HashMap<Hash, ClaimedCoupon>, sqlx::Error> {
        let keys: Vec<&[u8]> = keys.iter().map(Hash::as_slice).collect();
        let claimed = "SELECT key_hash, request_hash, id, campaign_id, user_id, number, code, 'issued' AS state, issued_at, \
                       expires_at FROM idempotency_keys JOIN coupons ON id = coupon_id WHERE key_hash = ANY ($1)";
        let found: Vec<ClaimedCoupon> =
            prepared!(pool, |connection| sqlx::query_as(claimed).bind(&keys).fetch_all(connection))?;
        let keyed = found.into_iter().filter_map(|row| Some((Hash::try_from(&*row.key_hash).ok()?, row)));
        Ok(keyed.collect())
    }
}

impl From<sqlx::Error> for KeyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Storage(StorageError::from(error))
    }
}
