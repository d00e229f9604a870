//! Campaigns in Postgres.

use outbox_relay::{AppendError, NewEvent};
use serde::Serialize;
use sqlx::{FromRow, PgConnection, PgPool};
use time::OffsetDateTime;
use ulid::Ulid;
use uuid::Uuid;

use super::draft::Draft;
use super::{Campaign, Expiry, State};
use crate::coupon::store::issued_of;
use crate::event::{self, CampaignChanged};
use crate::ids::CampaignId;

/// Campaigns on one page of a list, at the most.
pub const PAGE_MAX: i64 = 200;

/// Why a campaign was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("there is no such campaign")]
    Unknown,
    #[error("a campaign that is {} cannot be {asked}", state.as_str())]
    NotAllowed { state: State, asked: &'static str },
    #[error("change a campaign")]
    Database(#[from] sqlx::Error),
    #[error("tell of a change")]
    Append(#[from] AppendError),
}

/// The columns of a [`Campaign`], before the literal that follows. Named, because a plan that is kept for `*`
/// fails as soon as a migration has added a column.
macro_rules! columns {
    ($before:literal, $behind:literal) => {
        concat!(
            $before,
            "id, shard, name, merchant_id, face_value, currency, quantity, per_user_limit, opens_at, closes_at, \
             coupon_expires_at, coupon_valid_for, settle_on, state, version, created_at",
            $behind
        )
    };
}

/// A campaign as it was at a moment, which the clock of the database tells: no other judges what time it is.
#[derive(Debug, FromRow)]
pub struct Snapshot {
    #[sqlx(flatten)]
    pub campaign: Campaign,
    #[sqlx(rename = "now")]
    pub taken_at: OffsetDateTime,
}

impl Snapshot {
    /// Whether the campaign had come to its end so long before.
    #[must_use]
    pub fn is_over_for(&self, duration: time::Duration) -> bool {
        self.campaign.closes_at + duration <= self.taken_at
    }
}

/// A campaign and where it stands.
#[derive(Debug, Serialize, FromRow)]
pub struct Standing {
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub campaign: Campaign,
    pub issued: i32,
    pub left: i32,
}

/// Creates a draft.
pub async fn create(pool: &PgPool, draft: &Draft, shards: i16) -> Result<Campaign, sqlx::Error> {
    let id = CampaignId(Ulid::generate());
    let (expires_at, valid_for) = match draft.expiry {
        Expiry::At(time) => (Some(time), None),
        Expiry::After(duration) => (None, Some(duration.as_secs().cast_signed())),
    };
    sqlx::query_as(columns!(
        "INSERT INTO campaigns (id, shard, name, merchant_id, face_value, currency, quantity, per_user_limit, \
         opens_at, closes_at, coupon_expires_at, coupon_valid_for, settle_on, state) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'draft') RETURNING ",
        ""
    ))
    .bind(id)
    .bind(id.shard(shards).0)
    .bind(&draft.name)
    .bind(&draft.merchant_id)
    .bind(draft.face_value.minor)
    .bind(draft.face_value.currency)
    .bind(draft.quantity)
    .bind(draft.per_user_limit)
    .bind(draft.opens_at)
    .bind(draft.closes_at)
    .bind(expires_at)
    .bind(valid_for)
    .bind(draft.settle_on)
    .fetch_one(pool)
    .await
}

/// One campaign.
pub async fn get(pool: &PgPool, id: CampaignId) -> Result<Option<Snapshot>, sqlx::Error> {
    sqlx::query_as(columns!("SELECT ", ", now() AS now FROM campaigns WHERE id = $1"))
        .bind(id)
        .fetch_optional(pool)
        .await
}

/// Campaigns with their counts.
macro_rules! standings {
    ($condition:literal) => {
        concat!(
            columns!(
                "SELECT ",
                ", issued, quantity - issued AS \"left\" FROM campaigns CROSS JOIN LATERAL (SELECT "
            ),
            issued_of!("campaigns.id"),
            " AS issued) AS counted WHERE ",
            $condition
        )
    };
}

/// One campaign with its counts.
pub async fn standing(pool: &PgPool, id: CampaignId) -> Result<Option<Standing>, sqlx::Error> {
    sqlx::query_as(standings!("id = $1")).bind(id).fetch_optional(pool).await
}

/// Campaigns from the newest on, behind `before`; at most [`PAGE_MAX`].
pub async fn page(pool: &PgPool, before: Option<Ulid>, limit: i64) -> Result<Vec<Standing>, sqlx::Error> {
    sqlx::query_as(standings!("($1::uuid IS NULL OR id < $1) ORDER BY id DESC LIMIT $2"))
        .bind(before.map(Uuid::from))
        .bind(limit.min(PAGE_MAX))
        .fetch_all(pool)
        .await
}

/// The campaigns whose gates matter: not drafts, and closed for no longer than `over`.
pub async fn live(pool: &PgPool, over: time::Duration) -> Result<Vec<Standing>, sqlx::Error> {
    sqlx::query_as(standings!(
        "(state IN ('scheduled', 'open', 'paused') \
          OR state = 'closed' AND closes_at > now() - make_interval(secs => $1)) ORDER BY id"
    ))
    .bind(over.as_seconds_f64())
    .fetch_all(pool)
    .await
}

/// Opens a campaign, at once or when its time comes.
pub async fn open(pool: &PgPool, id: CampaignId) -> Result<Campaign, ChangeError> {
    change(pool, id, "opened", |campaign, now| {
        campaign.state.opened(campaign.opens_at, campaign.closes_at, now)
    })
    .await
}

/// Closes a campaign for good.
pub async fn close(pool: &PgPool, id: CampaignId) -> Result<Campaign, ChangeError> {
    change(pool, id, "closed", |_, _| Some(State::Closed)).await
}

/// Opens and closes what time has opened or closed, by the clock of the database.
pub async fn change_due(pool: &PgPool) -> Result<Vec<Campaign>, ChangeError> {
    let due: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM campaigns WHERE state = 'scheduled' AND opens_at <= now() \
         OR state IN ('scheduled', 'open', 'paused') AND closes_at <= now()",
    )
    .fetch_all(pool)
    .await?;
    let mut changed = Vec::with_capacity(due.len());
    for id in due {
        let id = CampaignId(id.into());
        changed.push(
            change(pool, id, "brought up to date", |campaign, now| {
                Some(campaign.state.due(campaign.opens_at, campaign.closes_at, now))
            })
            .await?,
        );
    }
    Ok(changed)
}

/// Brings a campaign into the state that `rule` says, and tells of it in the same transaction.
async fn change(
    pool: &PgPool,
    id: CampaignId,
    asked: &'static str,
    rule: impl FnOnce(&Campaign, OffsetDateTime) -> Option<State>,
) -> Result<Campaign, ChangeError> {
    let mut transaction = pool.begin().await?;
    let query = columns!("SELECT ", ", now() AS now FROM campaigns WHERE id = $1 FOR UPDATE");
    let Snapshot { campaign, taken_at } = sqlx::query_as(query)
        .bind(id)
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or(ChangeError::Unknown)?;
    let state = rule(&campaign, taken_at).ok_or(ChangeError::NotAllowed { state: campaign.state, asked })?;
    if state == campaign.state {
        return Ok(campaign);
    }
    let changed = save_state(&mut transaction, id, state).await?;
    // Last, because the shard stays locked from here to the commit: all that were issued before
    // come before this event, and whoever takes the lock after it sees the new state.
    if let Some(event) = changed_event(&changed) {
        outbox_relay::append(&mut transaction, changed.shard, &[event]).await?;
    }
    transaction.commit().await?;
    Ok(changed)
}

async fn save_state(
    connection: &mut PgConnection,
    id: CampaignId,
    state: State,
) -> Result<Campaign, sqlx::Error> {
    sqlx::query_as(columns!(
        "UPDATE campaigns SET state = $2, version = version + 1 WHERE id = $1 RETURNING ",
        ""
    ))
    .bind(id)
    .bind(state)
    .fetch_one(connection)
    .await
}

/// What the world is told of the state that a campaign is in now.
fn changed_event(campaign: &Campaign) -> Option<NewEvent> {
    let kind = match campaign.state {
        State::Open => event::CAMPAIGN_OPENED,
        State::Closed => event::CAMPAIGN_CLOSED,
        State::Draft | State::Scheduled | State::Paused => return None,
    };
    let id = campaign.id.to_string();
    let data = CampaignChanged {
        campaign_id: &id,
        merchant_id: campaign.merchant_id.as_str(),
        name: &campaign.name,
        quantity: campaign.quantity,
        version: campaign.version,
    };
    let data = serde_json::json!(data).to_string();
    Some(NewEvent { id: Ulid::generate(), kind, key: id.clone(), subject: id, data, traceparent: None })
}
