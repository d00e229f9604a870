//! What becomes of a coupon after it was issued: it is redeemed, restored, cancelled, or it expires. A change is a row that is
//! added; the last one tells the state of the coupon.
//!
//! [`Lifecycle`] is what callers use, [`expiry`] makes coupons expire when their time has come. Both write through the
//! writer that issues, in a lane of their own.

mod change;
pub mod expiry;
pub mod log;
pub mod metrics;
mod work;

use std::time::{Duration, Instant};

use outbox_relay::Shard;
use tokio::sync::oneshot;
use tokio::time::timeout;

pub use self::change::{Asked, ChangeKind, CouponChange, Outcome, Reason, Wanted};
use self::log::Log;
use self::metrics::Metrics;
pub use self::work::Changes;
use crate::cause::Cause;
use crate::coupon::changing::{Home, Homes};
use crate::idempotency::Keyed;
use crate::ids::{CampaignId, CouponId, MerchantId};
use crate::lookup::Lookups;
use crate::page::{Page, PageRequest};
use crate::pool::Pool;
use crate::storage::StorageError;
use crate::writer::{WriteError, Writer};

/// How long a change waits for a place among those in progress.
const PLACE_WAIT_MAX: Duration = Duration::from_secs(1);

/// Why a change has no answer. A retry is safe, and finds out.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    #[error("write the change of a coupon")]
    Write(#[from] WriteError),
    #[error("read coupons")]
    Storage(#[from] StorageError),
}

/// Changes coupons. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    homes: Lookups<Homes>,
    /// The writers of shard 0, 1, ….
    writers: Vec<Writer<Asked>>,
    log: Log,
    metrics: Metrics,
}

impl Lifecycle {
    /// `writers` are those of shard 0, 1, …. Starts a task, which ends when the last clone of this is dropped.
    #[must_use]
    pub fn new(pool: Pool, writers: Vec<Writer<Asked>>, metrics: Metrics) -> Self {
        Self { homes: Lookups::start(pool.clone()), writers, log: Log::new(pool), metrics }
    }

    /// Changes a coupon, or says why not.
    ///
    /// # Errors
    /// See [`LifecycleError`]. A retry is safe.
    pub async fn change(
        &self,
        coupon: CouponId,
        wanted: Wanted,
        cause: Cause,
        keyed: Option<Keyed>,
    ) -> Result<Outcome, LifecycleError> {
        let Some(Home { campaign_id: campaign, shard, .. }) = self.homes.get(coupon).await? else {
            return Ok(Outcome::NoSuchCoupon);
        };
        let kind = wanted.kind;
        let (reply, outcome) = oneshot::channel();
        let since = Instant::now();
        let cause = Some(cause);
        let asked = Asked { coupon, campaign, wanted, cause, keyed, since, reply };
        let outcome = self.written(shard, asked, outcome).await;
        self.metrics.answered(kind, &outcome);
        Ok(outcome?)
    }

    /// Makes a coupon expire whose time has come, or says why not.
    pub(super) async fn expire(
        &self,
        coupon: CouponId,
        campaign: CampaignId,
        shard: Shard,
    ) -> Result<Outcome, WriteError> {
        let (reply, outcome) = oneshot::channel();
        let (wanted, since) = (Wanted::of(ChangeKind::Expired), Instant::now());
        let asked = Asked { coupon, campaign, wanted, cause: None, keyed: None, since, reply };
        let outcome = self.written(shard, asked, outcome).await;
        self.metrics.answered(ChangeKind::Expired, &outcome);
        outcome
    }

    /// The changes of a coupon, the newest first; nothing if there is no such coupon, or if it is not of the merchant that is
    /// given.
    ///
    /// # Errors
    /// When Postgres does not answer in time.
    pub async fn changes(
        &self,
        coupon: CouponId,
        merchant: Option<&MerchantId>,
        page: PageRequest,
    ) -> Result<Option<Page<CouponChange, log::Cursor>>, StorageError> {
        let home = self.homes.get(coupon).await?;
        match home.filter(|home| merchant.is_none_or(|merchant| *merchant == home.merchant_id)) {
            Some(home) => self.log.page(home, page).await.map(Some),
            None => Ok(None),
        }
    }

    /// What changes come to.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    async fn written(
        &self,
        shard: Shard,
        asked: Asked,
        outcome: oneshot::Receiver<Result<Outcome, WriteError>>,
    ) -> Result<Outcome, WriteError> {
        let writer = usize::try_from(shard.0).ok().and_then(|shard| self.writers.get(shard));
        let Some(writer) = writer else { return Err(WriteError::NotWritten) };
        let Ok(_place) = timeout(PLACE_WAIT_MAX, writer.place()).await else {
            return Err(WriteError::Overloaded);
        };
        writer.write(asked).map_err(|_| WriteError::Overloaded)?;
        outcome.await.unwrap_or(Err(WriteError::Unknown))
    }
}
