//! Coupons in Postgres: every statement on the table `coupons` but `issue_batch_2()`, which writes it, and the
//! audit's, which compares it.

use std::collections::HashMap;

use outbox_relay::in_time::{InTime as _, SCAN_TIMEOUT};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::Coupon;
use super::code::Code;
use crate::ids::{CampaignId, CouponId, UserId};
use crate::lookup::{Lookup, Lookups};
use crate::pool::Pool;
use crate::storage::{StorageError, prepared};

/// A subquery: how many coupons of the campaign in a column have been issued. Numbers are serial, so it is the
/// highest number, read from the end of an index.
macro_rules! issued_of {
    ($campaign:literal) => {
        concat!(
            "coalesce((SELECT number FROM coupons WHERE campaign_id = ",
            $campaign,
            " ORDER BY number DESC LIMIT 1), 0)"
        )
    };
}

pub(crate) use issued_of;

/// The state of a coupon in a row with the column `expires_at`, as it is shown: by its last change in a table, and by the
/// time. A coupon that is not used has expired from its end on, by the clock of the database, whether or not a change says so
/// yet.
macro_rules! shown_state {
    ($changes:literal, $coupon:literal) => {
        concat!(
            "coalesce((SELECT nullif(kind, 'restored') FROM ",
            $changes,
            " AS change WHERE change.coupon_id = ",
            $coupon,
            " ORDER BY change.nth DESC LIMIT 1), CASE WHEN expires_at <= now() THEN 'expired' ELSE 'issued' END)"
        )
    };
}

pub(crate) use shown_state;

/// Coupons, with named columns: a plan that is kept for `*` fails as soon as a migration has added one.
macro_rules! coupons {
    ($condition:literal) => {
        concat!(
            "SELECT id, campaign_id, user_id, number, code, ",
            shown_state!("coupon_changes", "coupons.id"),
            " AS state, issued_at, expires_at FROM coupons WHERE ",
            $condition
        )
    };
}

/// The user to whom a coupon was issued.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Holder {
    #[sqlx(rename = "id")]
    pub coupon: CouponId,
    pub number: i32,
    pub user_id: UserId,
    /// Which of the user's coupons in this campaign, from 1.
    pub nth: i32,
}

/// Coupons, to be shown. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Coupons {
    by_id: Lookups<ById>,
    by_code: Lookups<ByCode>,
}

impl Coupons {
    /// Starts two tasks, which end when the last clone of this is dropped.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { by_id: Lookups::start(pool.clone()), by_code: Lookups::start(pool) }
    }

    /// One coupon.
    pub async fn get(&self, id: CouponId) -> Result<Option<Coupon>, StorageError> {
        self.by_id.get(id).await
    }

    /// The coupon with a code.
    pub async fn find(&self, code: Code) -> Result<Option<Coupon>, StorageError> {
        self.by_code.get(code).await
    }
}

struct ById;

impl Lookup for ById {
    type Key = CouponId;
    type Found = Coupon;

    const BATCH: usize = 512;

    async fn read(pool: &Pool, ids: &[CouponId]) -> Result<HashMap<CouponId, Coupon>, sqlx::Error> {
        let get = coupons!("id = ANY ($1)");
        let coupons: Vec<Coupon> =
            prepared!(pool, |connection| sqlx::query_as(get).bind(ids).fetch_all(connection))?;
        Ok(coupons.into_iter().map(|coupon| (coupon.id, coupon)).collect())
    }
}

struct ByCode;

impl Lookup for ByCode {
    type Key = Code;
    type Found = Coupon;

    const BATCH: usize = 512;

    async fn read(pool: &Pool, codes: &[Code]) -> Result<HashMap<Code, Coupon>, sqlx::Error> {
        let (lows, highs): (Vec<CouponId>, Vec<CouponId>) =
            codes.iter().map(|code| code.ids().into_inner()).unzip();
        let codes: Vec<String> = codes.iter().map(Code::text).collect();
        // LATERAL with a limit: whatever Postgres knows of the table, it looks into the index on the ids for each code.
        let find = concat!(
            "SELECT found.* FROM unnest($1::text[], $2::uuid[], $3::uuid[]) AS asked (code, low, high) \
             CROSS JOIN LATERAL (",
            coupons!("id BETWEEN asked.low AND asked.high AND code = asked.code LIMIT 1"),
            ") AS found"
        );
        let query = || sqlx::query_as(find).bind(&codes).bind(&lows).bind(&highs);
        let coupons: Vec<Coupon> = prepared!(pool, |connection| query().fetch_all(connection))?;
        Ok(coupons.into_iter().filter_map(|coupon| Some((coupon.code.parse().ok()?, coupon))).collect())
    }
}

/// The newest coupon of a user in a campaign.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Newest {
    /// Which of the user's coupons in this campaign, from 1.
    pub nth: i32,
    #[sqlx(flatten)]
    pub coupon: Coupon,
}

/// What users hold in campaigns. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Holdings(Lookups<NewestOf>);

impl Holdings {
    /// Starts a task, which ends when the last clone of this is dropped.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self(Lookups::start(pool))
    }

    /// The user's newest coupon of a campaign.
    pub async fn newest(&self, campaign: CampaignId, user: UserId) -> Result<Option<Newest>, StorageError> {
        self.0.get((campaign, user)).await
    }
}

struct NewestOf;

impl Lookup for NewestOf {
    type Key = (CampaignId, UserId);
    type Found = Newest;

    const BATCH: usize = 512;

    async fn read(pool: &Pool, keys: &[Self::Key]) -> Result<HashMap<Self::Key, Newest>, sqlx::Error> {
        let newest = concat!(
            "SELECT held.* FROM unnest($1::uuid[], $2::text[]) AS asked (a_campaign, a_user) \
             CROSS JOIN LATERAL (SELECT nth, id, campaign_id, user_id, number, code, ",
            shown_state!("coupon_changes", "coupons.id"),
            " AS state, issued_at, expires_at \
                 FROM coupons WHERE campaign_id = a_campaign AND user_id = a_user ORDER BY nth DESC LIMIT 1) AS held"
        );
        let (campaigns, users): (Vec<CampaignId>, Vec<&str>) =
            keys.iter().map(|(campaign, user)| (*campaign, user.as_str())).unzip();
        let found: Vec<Newest> = prepared!(pool, |connection| sqlx::query_as(newest)
            .bind(&campaigns)
            .bind(&users)
            .fetch_all(connection))?;
        let keyed =
            found.into_iter().map(|found| ((found.coupon.campaign_id, found.coupon.user_id.clone()), found));
        Ok(keyed.collect())
    }
}

/// To look up coupons, as they were issued, by the idempotency keys of their claims.
#[derive(Debug)]
pub(crate) struct ByKey;

#[derive(sqlx::FromRow)]
struct Claimed {
    idempotency_key: Uuid,
    #[sqlx(flatten)]
    coupon: Coupon,
}

impl Lookup for ByKey {
    type Key = Uuid;
    type Found = Coupon;

    const BATCH: usize = 512;

    async fn read(pool: &Pool, keys: &[Uuid]) -> Result<HashMap<Uuid, Coupon>, sqlx::Error> {
        let claimed = "SELECT idempotency_key, id, campaign_id, user_id, number, code, 'issued' AS state, issued_at, expires_at \
                       FROM coupons WHERE idempotency_key = ANY ($1)";
        let found: Vec<Claimed> =
            prepared!(pool, |connection| sqlx::query_as(claimed).bind(keys).fetch_all(connection))?;
        Ok(found.into_iter().map(|row| (row.idempotency_key, row.coupon)).collect())
    }
}

/// How many of these coupons exist.
pub async fn existing(executor: impl PgExecutor<'_>, ids: &[CouponId]) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM coupons WHERE id = ANY ($1)")
        .bind(ids)
        .fetch_one(executor)
        .within(SCAN_TIMEOUT)
        .await
}

/// How many coupons of a campaign have been issued.
pub async fn issued(executor: impl PgExecutor<'_>, campaign: CampaignId) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar(concat!("SELECT ", issued_of!("$1")))
        .bind(campaign)
        .fetch_one(executor)
        .within(SCAN_TIMEOUT)
        .await
}

/// The holders of a campaign's coupons behind number `after`, in the order of numbers; at most `limit`.
pub async fn holders(
    executor: impl PgExecutor<'_>,
    campaign: CampaignId,
    after: i32,
    limit: i64,
) -> Result<Vec<Holder>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, number, user_id, nth FROM coupons WHERE campaign_id = $1 AND number > $2 ORDER BY number LIMIT $3",
    )
    .bind(campaign)
    .bind(after)
    .bind(limit)
    .fetch_all(executor)
    .within(SCAN_TIMEOUT)
    .await
}

/// Which of these users have the n-th of their coupons of a campaign; `users` and `nths` have an element for each of
/// `campaigns`.
pub async fn issued_to(
    executor: impl PgExecutor<'_>,
    campaigns: &[CampaignId],
    users: &[&str],
    nths: &[i32],
) -> Result<Vec<(CampaignId, String, i32)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT campaign_id, user_id, nth FROM coupons \
         JOIN unnest($1::uuid[], $2::text[], $3::int[]) AS s (campaign_id, user_id, nth) \
         USING (campaign_id, user_id, nth)",
    )
    .bind(campaigns)
    .bind(users)
    .bind(nths)
    .fetch_all(executor)
    .within(SCAN_TIMEOUT)
    .await
}
