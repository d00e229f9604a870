//! The wallet: what a user holds, projected from the events.

use std::collections::HashMap;
use std::str::FromStr;

use outbox_relay::event::Event;
use outbox_relay::projection::{ApplyError, Applying, Projection};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::coupon::CouponState;
use crate::coupon::store::shown_state;
use crate::event;
use crate::ids::{CampaignId, CouponId, UserId};
use crate::lookup::{Lookup, Lookups};
use crate::money::Money;
use crate::page::{Page, PageRequest};
use crate::pool::Pool;
use crate::storage::{StorageError, prepared};

/// The projection into table `wallet`.
#[derive(Clone, Copy, Debug)]
pub struct Wallet;

impl Projection for Wallet {
    fn name(&self) -> &'static str {
        "wallet"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["wallet", "wallet_changes"]
    }

    fn apply<'a>(&'a self, transaction: &'a mut PgConnection, events: &'a [Event]) -> Applying<'a> {
        Box::pin(async {
            insert_issues(transaction, events).await?;
            insert_changes(transaction, events).await?;
            Ok(Vec::new())
        })
    }
}

async fn insert_issues(transaction: &mut PgConnection, events: &[Event]) -> Result<(), ApplyError> {
    let issues = event::issues(events)?;
    if issues.is_empty() {
        return Ok(());
    }
    // unnest() in FROM would first copy every element into a tuplestore.
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

async fn insert_changes(transaction: &mut PgConnection, events: &[Event]) -> Result<(), ApplyError> {
    let changes = event::changes(events)?;
    if changes.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO wallet_changes (coupon_id, nth, kind, campaign_id, at) \
         SELECT unnest($1::uuid[]), unnest($2::int[]), unnest($3::text[]), unnest($4::uuid[]), unnest($5::timestamptz[])",
    )
    .bind(changes.iter().map(|(_, change)| change.data.coupon_id).collect::<Vec<_>>())
    .bind(changes.iter().map(|(_, change)| change.data.nth).collect::<Vec<_>>())
    .bind(changes.iter().map(|(_, change)| change.kind).collect::<Vec<_>>())
    .bind(changes.iter().map(|(_, change)| change.data.campaign_id).collect::<Vec<_>>())
    .bind(changes.iter().map(|(_, change)| change.data.at).collect::<Vec<_>>())
    .execute(transaction)
    .await?;
    Ok(())
}

/// A coupon in a user's wallet.
#[derive(Clone, Debug, Serialize, FromRow)]
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
    /// The coupon is in the state [`CouponState::Issued`], which ends when it expires.
    pub usable: bool,
}

/// Which coupons of a wallet are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shown {
    All,
    /// The same as those in the state [`CouponState::Issued`].
    Usable,
    In(CouponState),
}

/// The text names no [`Shown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of usable, {}", CouponState::ALL.map(CouponState::as_str).join(", "))]
pub struct ShownError;

impl FromStr for Shown {
    type Err = ShownError;

    fn from_str(word: &str) -> Result<Self, ShownError> {
        let state = CouponState::ALL.into_iter().find(|state| state.as_str() == word);
        match (word, state) {
            ("usable", _) => Ok(Self::Usable),
            (_, Some(state)) => Ok(Self::In(state)),
            (_, None) => Err(ShownError),
        }
    }
}

impl Shown {
    /// The word for it, as a query parameter and in [`page`]; nothing for all.
    fn word(self) -> Option<&'static str> {
        match self {
            Self::All => None,
            Self::Usable => Some("usable"),
            Self::In(state) => Some(state.as_str()),
        }
    }
}

/// Wallets, to be shown. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Wallets(Lookups<Pages>);

impl Wallets {
    /// Starts a task, which ends when the last clone of this is dropped.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self(Lookups::start(pool))
    }

    /// What a user holds, the newest coupon first.
    pub async fn page(
        &self,
        user: UserId,
        shown: Shown,
        request: PageRequest,
    ) -> Result<Page<WalletCoupon, CouponId>, StorageError> {
        let coupons = self.0.get((user, shown, request)).await?.unwrap_or_default();
        Ok(Page::new(coupons, request.limit, |coupon| coupon.id))
    }
}

struct Pages;

#[derive(FromRow)]
struct OnPage {
    /// Which of the pages, from 1.
    page: i64,
    #[sqlx(flatten)]
    coupon: WalletCoupon,
}

impl Lookup for Pages {
    type Key = (UserId, Shown, PageRequest);
    type Found = Vec<WalletCoupon>;

    /// Pages in one statement, each with up to [`PAGE_MAX`](crate::page::PAGE_MAX) coupons.
    const BATCH: usize = 128;

    async fn read(
        pool: &Pool,
        keys: &[Self::Key],
    ) -> Result<HashMap<Self::Key, Vec<WalletCoupon>>, sqlx::Error> {
        let pages = concat!(
            "SELECT page, held.* FROM unnest($1::text[], $2::uuid[], $3::text[], $4::bigint[]) WITH ORDINALITY \
                 AS asked (a_user, before, word, a_limit, page) \
             CROSS JOIN LATERAL (\
                 SELECT coupon_id, campaign_id, number, face_value, currency, shown AS state, issued_at, expires_at, \
                        shown = 'issued' AS usable \
                 FROM wallet CROSS JOIN LATERAL (SELECT ",
            shown_state!("wallet_changes", "wallet.coupon_id"),
            " AS shown) AS at_this_moment \
                 WHERE user_id = a_user AND (before IS NULL OR coupon_id < before) \
                   AND (word IS NULL OR shown = CASE WHEN word = 'usable' THEN 'issued' ELSE word END) \
                 ORDER BY coupon_id DESC LIMIT a_limit) AS held \
             ORDER BY page, coupon_id DESC",
        );
        let rows: Vec<OnPage> = prepared!(pool, |connection| sqlx::query_as(pages)
            .bind(keys.iter().map(|(user, ..)| user.as_str()).collect::<Vec<_>>())
            .bind(keys.iter().map(|(.., request)| request.before.map(Uuid::from)).collect::<Vec<_>>())
            .bind(keys.iter().map(|(_, shown, _)| shown.word()).collect::<Vec<_>>())
            .bind(keys.iter().map(|(.., request)| request.limit.get()).collect::<Vec<_>>())
            .fetch_all(connection))?;
        let mut found: HashMap<_, Vec<_>> = HashMap::with_capacity(keys.len());
        for OnPage { page, coupon } in rows {
            if let Some(key) = usize::try_from(page - 1).ok().and_then(|place| keys.get(place)) {
                found.entry(key.clone()).or_default().push(coupon);
            }
        }
        Ok(found)
    }
}
