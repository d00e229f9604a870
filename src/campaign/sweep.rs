//! What the sweeper reads of campaigns: a part at a time, in an order that it goes on with, and each part by an index
//! of its own.

use outbox_relay::Shard;
use outbox_relay::in_time::{InTime as _, SCAN_TIMEOUT};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgExecutor, Row as _};
use time::OffsetDateTime;
use ulid::Ulid;

use super::Campaign;
use super::store::{Snapshot, columns};
use crate::coupon::store::issued_of;
use crate::ids::CampaignId;
use crate::pool::Pool;
use crate::storage::{is_unreadable, prepared};

/// Before the first campaign.
const NONE: CampaignId = CampaignId(Ulid(0));

/// A campaign with the number of its coupons, at a moment.
#[derive(Debug, FromRow)]
pub struct Seen {
    #[sqlx(flatten)]
    pub snapshot: Snapshot,
    pub issued: i32,
}

impl Seen {
    /// The campaign.
    #[must_use]
    pub fn campaign(&self) -> &Campaign {
        &self.snapshot.campaign
    }
}

/// What one statement has found.
#[derive(Debug, Default)]
pub struct Chunk {
    pub seen: Vec<Seen>,
    /// Campaigns whose rows hold what this program never writes, each with the reason.
    pub unreadable: Vec<(CampaignId, sqlx::Error)>,
}

impl Chunk {
    fn of(rows: Vec<PgRow>) -> Result<Self, sqlx::Error> {
        let mut chunk = Self::default();
        for row in rows {
            match Seen::from_row(&row) {
                Ok(seen) => chunk.seen.push(seen),
                Err(error) if is_unreadable(&error) => chunk.unreadable.push((row.try_get("id")?, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(chunk)
    }

    /// How many rows it has.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.seen.len() + self.unreadable.len()
    }
}

/// Campaigns with the numbers of their coupons.
macro_rules! seen {
    ($condition:literal) => {
        concat!(
            columns!("SELECT ", ", now() AS now, "),
            issued_of!("campaigns.id"),
            " AS issued FROM campaigns WHERE ",
            $condition
        )
    };
}

/// Campaigns that take claims, or will by themselves: behind `after`, in the order of ids; at most `limit`.
pub async fn live(pool: &Pool, after: Option<&Campaign>, limit: i64) -> Result<Chunk, sqlx::Error> {
    let part = seen!("state IN ('scheduled', 'open', 'paused') AND id > $1 ORDER BY id LIMIT $2");
    prepared!(pool, |connection| sqlx::query(part).bind(id_of(after)).bind(limit).fetch_all(connection))
        .and_then(Chunk::of)
}

/// Drafts: behind `after`, in the order of ids; at most `limit`.
pub async fn drafts(pool: &Pool, after: Option<&Campaign>, limit: i64) -> Result<Chunk, sqlx::Error> {
    let part = seen!("state = 'draft' AND id > $1 ORDER BY id LIMIT $2");
    prepared!(pool, |connection| sqlx::query(part).bind(id_of(after)).bind(limit).fetch_all(connection))
        .and_then(Chunk::of)
}

/// Closed campaigns that have been over for no longer than `over`: behind `after`, in the order in which they were;
/// at most `limit`.
pub async fn closed(
    pool: &Pool,
    over: time::Duration,
    after: Option<&Campaign>,
    limit: i64,
) -> Result<Chunk, sqlx::Error> {
    let part = seen!(
        "state = 'closed' \
         AND (least(closed_at, closes_at), id) > (greatest($1, now() - make_interval(secs => $2)), $3) \
         ORDER BY least(closed_at, closes_at), id LIMIT $4"
    );
    prepared!(pool, |connection| sqlx::query(part)
        .bind(after.map_or(OffsetDateTime::UNIX_EPOCH, Campaign::over_at))
        .bind(over.as_seconds_f64())
        .bind(id_of(after))
        .bind(limit)
        .fetch_all(connection))
    .and_then(Chunk::of)
}

/// The campaigns of these ids that exist.
pub async fn chunk_of_ids(executor: impl PgExecutor<'_>, ids: &[CampaignId]) -> Result<Chunk, sqlx::Error> {
    let rows = sqlx::query(seen!("id = ANY ($1)")).bind(ids).fetch_all(executor).within(SCAN_TIMEOUT).await;
    rows.and_then(Chunk::of)
}

/// The campaigns of these ids that exist and can be read.
pub async fn of_ids(executor: impl PgExecutor<'_>, ids: &[CampaignId]) -> Result<Vec<Seen>, sqlx::Error> {
    Ok(chunk_of_ids(executor, ids).await?.seen)
}

/// Campaigns that time has opened or closed, by the clock of the database: behind `after`, in the order of ids; at
/// most `limit`.
pub async fn due(
    pool: &Pool,
    after: Option<CampaignId>,
    limit: i64,
) -> Result<Vec<(CampaignId, Shard)>, sqlx::Error> {
    let due = "SELECT id, shard FROM (SELECT id, shard FROM campaigns WHERE state = 'scheduled' AND opens_at <= now() \
         UNION SELECT id, shard FROM campaigns \
         WHERE state IN ('scheduled', 'open', 'paused') AND closes_at <= now()) AS due \
         WHERE id > $1 ORDER BY id LIMIT $2";
    prepared!(pool, |connection| sqlx::query_as(due)
        .bind(after.unwrap_or(NONE))
        .bind(limit)
        .fetch_all(connection))
}

/// Dates campaigns that were closed before their end by the version before this one, which does not say when; at
/// most `limit`. Rows that are locked come later.
pub async fn date_closed(pool: &Pool, limit: i64) -> Result<(), sqlx::Error> {
    let undated = "UPDATE campaigns SET closed_at = now() WHERE id IN ( \
                       SELECT id FROM campaigns WHERE state = 'closed' AND least(closed_at, closes_at) > now() \
                       AND closed_at IS NULL LIMIT $1 FOR UPDATE SKIP LOCKED)";
    prepared!(pool, |connection| sqlx::query(undated).bind(limit).execute(connection)).map(drop)
}

fn id_of(campaign: Option<&Campaign>) -> CampaignId {
    campaign.map_or(NONE, |campaign| campaign.id)
}
