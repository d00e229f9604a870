//! Campaigns in Postgres.

use std::collections::HashMap;
use std::time::Duration;

use outbox_relay::in_time::InTime as _;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row as _};
use time::OffsetDateTime;

use super::{Campaign, State};
use crate::coupon::Refusal;
use crate::coupon::store::issued_of;
use crate::ids::CampaignId;
use crate::lookup::Lookup;
use crate::page::{Page, PageLimit};
use crate::pool::Pool;
use crate::storage::{is_unreadable, prepared, read, read_row};

/// An expression: how many coupons of a row of `campaigns` have put their seats back on sale. Their numbers are serial, so it
/// is the highest, read from the end of an index.
macro_rules! returned {
    () => {
        "coalesce((SELECT return_number FROM coupon_changes WHERE campaign_id = campaigns.id AND return_number IS NOT NULL \
                   ORDER BY return_number DESC LIMIT 1), 0)"
    };
}

pub(crate) use returned;

/// The columns of a [`Campaign`], before the literal that follows. Named, because a plan that is kept for `*`
/// fails as soon as a migration has added a column.
macro_rules! columns {
    ($before:literal, $behind:literal) => {
        concat!(
            $before,
            "id, shard, name, merchant_id, face_value, currency, quantity, budget, per_user_limit, opens_at, closes_at, \
             coupon_expires_at, coupon_valid_for, settle_on, require_idempotency_key, restock_on_cancel, state, version, \
             created_at, closed_at, ",
            $crate::campaign::store::returned!(),
            " AS returned",
            $behind
        )
    };
}

pub(crate) use columns;

/// A campaign at a moment. The time is that of the database: no other clock decides what time it is.
#[derive(Debug, FromRow)]
pub struct Snapshot {
    #[sqlx(flatten)]
    pub campaign: Campaign,
    #[sqlx(rename = "now")]
    pub taken_at: OffsetDateTime,
}

impl Snapshot {
    /// Whether the campaign was over for at least `duration`.
    #[must_use]
    pub fn is_over_for(&self, duration: time::Duration) -> bool {
        self.campaign.over_at() + duration <= self.taken_at
    }
}

/// How long before `opens_at` Postgres begins to take claims, as clocks differ: see `issue_batch_2()`.
pub(super) const TAKEN_BEFORE_OPENING: time::Duration = time::Duration::seconds(5);

/// A campaign at a moment, with the number of its coupons.
#[derive(Debug, FromRow)]
pub struct Counted {
    #[sqlx(flatten)]
    pub snapshot: Snapshot,
    pub issued: i32,
}

impl Counted {
    /// Why `issue_batch_2()` refuses all users, until the campaign is changed or [`Counted::refuses_for`] is over; nothing
    /// if it may issue a coupon.
    #[must_use]
    pub fn refuses_all(&self) -> Option<Refusal> {
        let campaign = &self.snapshot.campaign;
        match campaign.state {
            State::Closed => Some(Refusal::Closed),
            State::Draft | State::Paused => Some(Refusal::NotOpen),
            State::Scheduled | State::Open if self.refuses_for().is_some() => Some(Refusal::NotOpen),
            State::Scheduled | State::Open => {
                (self.issued >= campaign.coupons_max()).then_some(Refusal::SoldOut)
            }
        }
    }

    /// How long claims are not taken yet; nothing if they are, or if only a change of the campaign can open it.
    #[must_use]
    pub fn refuses_for(&self) -> Option<Duration> {
        let Snapshot { campaign, taken_at } = &self.snapshot;
        let opens_by_time = matches!(campaign.state, State::Scheduled | State::Open);
        let wait = campaign.opens_at - TAKEN_BEFORE_OPENING - *taken_at;
        wait.try_into().ok().filter(|wait: &Duration| opens_by_time && !wait.is_zero())
    }
}

/// A campaign with its counts.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Standing {
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub campaign: Campaign,
    pub issued: i32,
    pub left: i32,
    /// Coupons that were cancelled and whose seats are back on sale.
    pub returned: i32,
    /// What the other coupons that are issued are worth together, in minor units.
    pub issued_value: i64,
}

/// An expression: coupons of a row of `campaigns`, at most. See [`Campaign::coupons_max`].
macro_rules! coupons_max {
    () => {
        // least() passes over NULL
        concat!(
            "(least(quantity, budget / face_value)::integer + ",
            $crate::campaign::store::returned!(),
            ")"
        )
    };
}

pub(crate) use coupons_max;

/// Campaigns with their counts.
macro_rules! standings {
    ($condition:literal) => {
        concat!(
            columns!("SELECT ", ", issued, "),
            coupons_max!(),
            " - issued AS \"left\", (issued - ",
            $crate::campaign::store::returned!(),
            ") * face_value AS issued_value \
             FROM campaigns CROSS JOIN LATERAL (SELECT ",
            issued_of!("campaigns.id"),
            " AS issued) AS counted WHERE ",
            $condition
        )
    };
}

/// One campaign with its counts, in a transaction.
pub async fn standing(transaction: &mut PgConnection, id: CampaignId) -> Result<Standing, sqlx::Error> {
    sqlx::query_as(standings!("id = $1")).bind(id).fetch_one(transaction).in_time().await
}

/// What time it is: by the clock of the database, as no other counts.
pub async fn now(pool: &Pool) -> Result<OffsetDateTime, sqlx::Error> {
    let now = async || prepared!(pool, |connection| sqlx::query_scalar("SELECT now()").fetch_one(connection));
    read(pool, now).await
}

/// One campaign.
pub async fn get(pool: &Pool, id: CampaignId) -> Result<Option<Snapshot>, sqlx::Error> {
    let get = columns!("SELECT ", ", now() AS now FROM campaigns WHERE id = $1");
    let get = async || prepared!(pool, |connection| sqlx::query_as(get).bind(id).fetch_optional(connection));
    read(pool, get).await
}

/// One campaign, and how many coupons it has.
pub async fn counted(pool: &Pool, id: CampaignId) -> Result<Option<Counted>, sqlx::Error> {
    let counted = concat!(
        columns!("SELECT ", ", now() AS now, "),
        issued_of!("campaigns.id"),
        " AS issued FROM campaigns WHERE id = $1"
    );
    let counted =
        async || prepared!(pool, |connection| sqlx::query_as(counted).bind(id).fetch_optional(connection));
    read(pool, counted).await
}

/// Campaigns with their counts, by id.
#[derive(Debug)]
pub(super) struct Standings;

impl Lookup for Standings {
    type Key = CampaignId;
    type Found = Standing;

    const BATCH: usize = 512;

    async fn read(pool: &Pool, ids: &[CampaignId]) -> Result<HashMap<CampaignId, Standing>, sqlx::Error> {
        let standings = standings!("id = ANY ($1)");
        let found: Vec<Standing> =
            prepared!(pool, |connection| sqlx::query_as(standings).bind(ids).fetch_all(connection))?;
        Ok(found.into_iter().map(|standing| (standing.campaign.id, standing)).collect())
    }
}

/// Campaigns from the newest on, behind `before`, and only those in some states if any are given; at most `limit`. One
/// whose row holds what this program never writes is logged, and named in the page.
pub async fn page(
    pool: &Pool,
    before: Option<CampaignId>,
    states: Option<&[State]>,
    limit: PageLimit,
) -> Result<Page<Standing, CampaignId>, sqlx::Error> {
    let states = states.map(|states| states.iter().map(|state| state.as_str()).collect::<Vec<_>>());
    let page = standings!(
        "($1::uuid IS NULL OR id < $1) AND ($2::text[] IS NULL OR state = ANY ($2)) ORDER BY id DESC LIMIT $3"
    );
    let query = || sqlx::query(page).bind(before).bind(&states).bind(limit.get());
    let page = async || prepared!(pool, |connection| query().fetch_all(connection));
    let rows = read(pool, page).await?;
    let id = |row: &PgRow| row.try_get::<CampaignId, _>("id");
    let ids: Vec<CampaignId> = rows.iter().map(id).collect::<Result<_, _>>()?;
    let Page { items: _, next, .. } = Page::new(ids, limit, |id| *id);
    let (mut items, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in &rows {
        match read_row::<Standing>(row) {
            Ok(standing) => items.push(standing),
            Err(error) if is_unreadable(&error) => {
                let campaign = id(row)?;
                let error = &error as &dyn std::error::Error;
                tracing::error!(%campaign, error, "a campaign cannot be read, and is left out of a list");
                unreadable.push(campaign);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Page { items, next, unreadable })
}

/// One campaign, whose row stays locked until the transaction ends.
pub async fn lock(transaction: &mut PgConnection, id: CampaignId) -> Result<Option<Snapshot>, sqlx::Error> {
    sqlx::query_as(columns!("SELECT ", ", now() AS now FROM campaigns WHERE id = $1 FOR UPDATE"))
        .bind(id)
        .fetch_optional(transaction)
        .in_time()
        .await
}

/// The same, but nothing if another transaction has locked the row.
pub async fn lock_if_free(
    transaction: &mut PgConnection,
    id: CampaignId,
) -> Result<Option<Snapshot>, sqlx::Error> {
    sqlx::query_as(columns!("SELECT ", ", now() AS now FROM campaigns WHERE id = $1 FOR UPDATE SKIP LOCKED"))
        .bind(id)
        .fetch_optional(transaction)
        .in_time()
        .await
}
