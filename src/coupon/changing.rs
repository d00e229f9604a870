//! What a change of a coupon asks of the coupon's row: where it belongs, and whether it is due to expire.

use std::collections::HashMap;

use outbox_relay::Shard;
use sqlx::FromRow;
use time::OffsetDateTime;

use crate::ids::{CampaignId, CouponId, MerchantId, UserId};
use crate::lookup::Lookup;
use crate::money::Currency;
use crate::pool::Pool;
use crate::storage::prepared;

/// Where a coupon belongs.
#[derive(Clone, Debug, FromRow)]
pub struct Home {
    pub id: CouponId,
    pub campaign_id: CampaignId,
    pub shard: Shard,
    pub user_id: UserId,
    pub currency: Currency,
    pub merchant_id: MerchantId,
}

/// To look up where coupons belong.
#[derive(Debug)]
pub struct Homes;

impl Lookup for Homes {
    type Key = CouponId;
    type Found = Home;

    const BATCH: usize = 512;

    async fn read(pool: &Pool, ids: &[CouponId]) -> Result<HashMap<CouponId, Home>, sqlx::Error> {
        // LATERAL with a limit: whatever Postgres knows of the tables, it looks into the indexes on the ids.
        let homes = "SELECT coupon.id, campaign_id, shard, user_id, currency, merchant_id FROM unnest($1::uuid[]) AS asked (id) \
                     CROSS JOIN LATERAL (\
                         SELECT id, campaign_id, user_id FROM coupons WHERE coupons.id = asked.id LIMIT 1) AS coupon \
                     CROSS JOIN LATERAL (\
                         SELECT shard, currency, merchant_id FROM campaigns WHERE campaigns.id = campaign_id LIMIT 1) AS campaign";
        let found: Vec<Home> =
            prepared!(pool, |connection| sqlx::query_as(homes).bind(ids).fetch_all(connection))?;
        Ok(found.into_iter().map(|home| (home.id, home)).collect())
    }
}

/// A coupon that may be due to expire.
#[derive(Debug, FromRow)]
pub struct Candidate {
    pub id: CouponId,
    pub number: i32,
    pub expires_at: OffsetDateTime,
    pub is_due: bool,
    /// It is redeemed, cancelled or expired.
    pub has_ended: bool,
}

/// The coupons of a campaign behind a number, in the order of numbers; at most `limit`.
pub async fn candidates(
    pool: &Pool,
    campaign: CampaignId,
    after: i32,
    limit: i64,
) -> Result<Vec<Candidate>, sqlx::Error> {
    let candidates = "SELECT id, number, expires_at, expires_at <= clock_timestamp() AS is_due, \
                             coalesce(last.kind <> 'restored', false) AS has_ended \
                      FROM coupons LEFT JOIN LATERAL (\
                          SELECT kind FROM coupon_changes WHERE coupon_id = id ORDER BY nth DESC LIMIT 1) AS last ON true \
                      WHERE campaign_id = $1 AND number > $2 ORDER BY number LIMIT $3";
    let query = || sqlx::query_as(candidates).bind(campaign).bind(after).bind(limit);
    prepared!(pool, |connection| query().fetch_all(connection))
}
