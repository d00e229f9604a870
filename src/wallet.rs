//! The wallet: what a user holds, projected from the events.

use outbox_relay::event::Event;
use outbox_relay::projection::{ApplyError, Applying, Projection};
use serde::Serialize;
use sqlx::{FromRow, PgConnection, PgPool};
use time::OffsetDateTime;
use ulid::Ulid;
use uuid::Uuid;

use crate::coupon::CouponState;
use crate::event;
use crate::ids::{CampaignId, CouponId, UserId};
use crate::money::Money;

/// Coupons on one page of a list, at the most.
pub const PAGE_MAX: i64 = 200;

/// The projection into table `wallet`.
#[derive(Clone, Copy, Debug)]
pub struct Wallet;

impl Projection for Wallet {
    fn name(&self) -> &'static str {
        "wallet"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["wallet"]
    }

    fn apply<'a>(&'a self, transaction: &'a mut PgConnection, events: &'a [Event]) -> Applying<'a> {
        Box::pin(insert(transaction, events))
    }
}

async fn insert(transaction: &mut PgConnection, events: &[Event]) -> Result<(), ApplyError> {
    let issues = event::issues(events)?;
    // unnest() in FROM would first put every element into a store.
    sqlx::query(
            "INSERT INTO wallet (user_id, coupon_id, campaign_id, number, face_value, currency, issued_at, expires_at, state) \
             SELECT unnest($1::text[]), unnest($2::uuid[]), unnest($3::uuid[]), unnest($4::int[]), unnest($5::bigint[]), \
                    unnest($6::text[]), unnest($7::timestamptz[]), unnest($8::timestamptz[]), 'issued'",
        )
        .bind(issues.iter().map(|(_, e)| &*e.user_id).collect::<Vec<_>>())
        .bind(issues.iter().map(|(_, e)| e.coupon_id).collect::<Vec<_>>())
        .bind(issues.iter().map(|(_, e)| e.campaign_id).collect::<Vec<_>>())
        .bind(issues.iter().map(|(_, e)| e.number).collect::<Vec<_>>())
        .bind(issues.iter().map(|(_, e)| e.face_value).collect::<Vec<_>>())
        .bind(issues.iter().map(|(_, e)| e.currency).collect::<Vec<_>>())
        .bind(issues.iter().map(|(_, e)| e.issued_at).collect::<Vec<_>>())
        .bind(issues.iter().map(|(_, e)| e.expires_at).collect::<Vec<_>>())
        .execute(transaction)
        .await?;
    Ok(())
}

/// A coupon in a user's wallet.
#[derive(Debug, Serialize, FromRow)]
pub struct WalletCoupon {
    #[sqlx(rename = "coupon_id")]
    pub id: CouponId,
    pub campaign_id: CampaignId,
    pub number: i32,
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub face_value: Money,
    pub state: CouponState,
    #[serde(with = "time::serde::rfc3339")]
    pub issued_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// It is issued, and has not run out.
    pub usable: bool,
}

/// What a user holds, from the newest on, behind `before`; at most [`PAGE_MAX`]. Status `usable`
/// or the word of a state, or everything.
pub async fn page(
    pool: &PgPool,
    user: &UserId,
    status: Option<&str>,
    before: Option<Ulid>,
    limit: i64,
) -> Result<Vec<WalletCoupon>, sqlx::Error> {
    sqlx::query_as(
        "SELECT coupon_id, campaign_id, number, face_value, currency, state, issued_at, expires_at, usable \
         FROM (SELECT *, state = 'issued' AND expires_at > now() AS usable FROM wallet) AS held \
         WHERE user_id = $1 AND ($2::uuid IS NULL OR coupon_id < $2) \
           AND ($3::text IS NULL OR CASE WHEN $3 = 'usable' THEN usable ELSE state = $3 END) \
         ORDER BY coupon_id DESC LIMIT $4",
    )
    .bind(user)
    .bind(before.map(Uuid::from))
    .bind(status)
    .bind(limit.min(PAGE_MAX))
    .fetch_all(pool)
    .await
}
