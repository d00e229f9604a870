//! Writes what becomes of a campaign: its row, the change that led there, and the event about it, in one transaction. The
//! one place for operators and for the clock; `issue_batch_2()` alone also opens a scheduled campaign, together with its
//! first coupon.

use outbox_relay::NewEvent;
use outbox_relay::in_time::InTime as _;
use serde_json::{Map, Value};
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres};
use ulid::Ulid;

use super::draft::Draft;
use super::error::ChangeError;
use super::store::columns;
use super::{Campaign, Expiry, State};
use crate::cause::{Cause, RequestId, Traceparent};
use crate::event::{self, CampaignChanged, CampaignPhase, CampaignSoldOut, Taking};
use crate::ids::CampaignId;

/// Who changes a campaign when its time has come. `issue_batch_2()` names it too.
const CLOCK: &str = "clock";

/// What a campaign becomes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Becomes<'a> {
    Of(State),
    /// In the same state, with these fields; with the number of coupons, which stays the same until the transaction ends.
    With(&'a Draft, i32),
}

/// Inserts a draft.
pub(super) async fn insert(
    transaction: &mut PgConnection,
    id: CampaignId,
    draft: &Draft,
    shards: i16,
    cause: &Cause,
) -> Result<Campaign, ChangeError> {
    let campaign = insert_row(transaction, id, draft, shards).await?;
    remember(transaction, None, &campaign, Some(cause)).await?;
    Ok(campaign)
}

/// A campaign that was changed, and what is to be published about it.
pub(super) struct Saved {
    pub(super) campaign: Campaign,
    events: Vec<NewEvent>,
}

impl Saved {
    /// A campaign that stays as it is.
    pub(super) fn unchanged(campaign: Campaign) -> Self {
        Self { campaign, events: Vec::new() }
    }

    /// Appends the events. It must be the last statement of the transaction, because the shard stays locked from here to the
    /// commit: every coupon that was issued before comes before these events, and every batch after them sees the new
    /// campaign.
    pub(super) async fn publish(self, transaction: &mut PgConnection) -> Result<(), ChangeError> {
        if !self.events.is_empty() {
            outbox_relay::append(transaction, self.campaign.shard, &self.events).await?;
        }
        Ok(())
    }
}

/// Changes a campaign, whose row the transaction has locked. The clock is no cause.
pub(super) async fn save(
    transaction: &mut PgConnection,
    before: &Campaign,
    becomes: Becomes<'_>,
    cause: Option<&Cause>,
) -> Result<Saved, ChangeError> {
    let changed = match becomes {
        Becomes::Of(state) => save_state(transaction, before.id, state).await?,
        Becomes::With(draft, _) => save_draft(transaction, before.id, draft).await?,
    };
    remember(transaction, Some(before), &changed, cause).await?;
    let mut events = Vec::from_iter(event_of(before.state, &changed, cause)?);
    if let Becomes::With(_, issued) = becomes
        && (changed.coupons_max()..before.coupons_max()).contains(&issued)
        && !events.is_empty()
    {
        events.push(sold_out(&changed, cause)?);
    }
    Ok(Saved { campaign: changed, events })
}

/// Inserts the row of a draft.
async fn insert_row(
    connection: &mut PgConnection,
    id: CampaignId,
    draft: &Draft,
    shards: i16,
) -> Result<Campaign, sqlx::Error> {
    let insert = columns!(
        "INSERT INTO campaigns (id, name, merchant_id, face_value, currency, quantity, budget, per_user_limit, opens_at, \
         closes_at, coupon_expires_at, coupon_valid_for, settle_on, require_idempotency_key, restock_on_cancel, shard, state) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 'draft') RETURNING ",
        ""
    );
    with_fields(insert, id, draft).bind(id.shard(shards).0).fetch_one(connection).in_time().await
}

/// Saves the fields of a campaign that it was created with, as its next version.
async fn save_draft(
    transaction: &mut PgConnection,
    id: CampaignId,
    draft: &Draft,
) -> Result<Campaign, sqlx::Error> {
    let update = columns!(
        "UPDATE campaigns SET name = $2, merchant_id = $3, face_value = $4, currency = $5, quantity = $6, \
         budget = $7, per_user_limit = $8, opens_at = $9, closes_at = $10, coupon_expires_at = $11, \
         coupon_valid_for = $12, settle_on = $13, require_idempotency_key = $14, restock_on_cancel = $15, expiry_due_at = now(), version = version + 1 \
         WHERE id = $1 RETURNING ",
        ""
    );
    with_fields(update, id, draft).fetch_one(transaction).in_time().await
}

/// A statement with the id as its first parameter, and the fields of a draft as those that follow.
fn with_fields<'q>(
    statement: &'q str,
    id: CampaignId,
    draft: &'q Draft,
) -> QueryAs<'q, Postgres, Campaign, PgArguments> {
    let (expires_at, valid_for) = match draft.expiry {
        Expiry::At(time) => (Some(time), None),
        Expiry::After(duration) => (None, Some(duration.as_secs().cast_signed())),
    };
    sqlx::query_as(statement)
        .bind(id)
        .bind(&draft.name)
        .bind(&draft.merchant_id)
        .bind(draft.face_value.minor)
        .bind(draft.face_value.currency)
        .bind(draft.quantity)
        .bind(draft.budget)
        .bind(draft.per_user_limit)
        .bind(draft.opens_at)
        .bind(draft.closes_at)
        .bind(expires_at)
        .bind(valid_for)
        .bind(draft.settle_on)
        .bind(draft.require_idempotency_key)
        .bind(draft.restock_on_cancel)
}

/// Saves the state of a campaign, as its next version.
async fn save_state(
    transaction: &mut PgConnection,
    id: CampaignId,
    state: State,
) -> Result<Campaign, sqlx::Error> {
    sqlx::query_as(columns!(
        "UPDATE campaigns SET state = $2, version = version + 1, \
         closed_at = CASE WHEN $2 = 'closed' THEN now() END WHERE id = $1 RETURNING ",
        ""
    ))
    .bind(id)
    .bind(state)
    .fetch_one(transaction)
    .in_time()
    .await
}

/// Adds a row to the changes of the campaign.
async fn remember(
    transaction: &mut PgConnection,
    before: Option<&Campaign>,
    after: &Campaign,
    cause: Option<&Cause>,
) -> Result<(), ChangeError> {
    let actor = cause.map_or_else(|| CLOCK.to_owned(), |cause| cause.principal.to_string());
    let request_id = cause.and_then(|cause| cause.request_id.as_ref()).map(RequestId::as_str);
    let (id, version, after_fields) = (after.id, after.version, fields(after)?);
    let before_fields = before.map(fields).transpose()?;
    let (before, after) = match before_fields {
        Some(before) => (Some(without(&before, &after_fields)), without(&after_fields, &before)),
        None => (None, after_fields),
    };
    sqlx::query(
        "INSERT INTO campaign_changes (campaign_id, version, actor, request_id, before, after) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(id)
    .bind(version)
    .bind(actor)
    .bind(request_id)
    .bind(before.map(Json))
    .bind(Json(after))
    .execute(transaction)
    .in_time()
    .await?;
    Ok(())
}

/// The fields of a campaign that a change can change, as the API has them.
fn fields(campaign: &Campaign) -> Result<Map<String, Value>, ChangeError> {
    let mut fields = match serde_json::to_value(campaign) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => Map::new(),
        Err(error) => return Err(ChangeError::Refused(error.to_string())),
    };
    fields.retain(|name, _| !["id", "version", "created_at"].contains(&name.as_str()));
    Ok(fields)
}

/// The fields of one that the other has not, or otherwise.
fn without(one: &Map<String, Value>, other: &Map<String, Value>) -> Map<String, Value> {
    let differ = one.iter().filter(|(name, value)| other.get(*name) != Some(value));
    differ.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The event about a campaign that was in the state `before`; nothing as long as it has not been opened.
fn event_of(
    before: State,
    campaign: &Campaign,
    cause: Option<&Cause>,
) -> Result<Option<NewEvent>, ChangeError> {
    let phase = || {
        serde_json::to_string(&CampaignPhase {
            campaign_id: campaign.id,
            merchant_id: campaign.merchant_id.as_str().into(),
            name: campaign.name.as_str().into(),
            quantity: campaign.quantity,
            version: campaign.version,
        })
    };
    let changed = |state| {
        serde_json::to_string(&CampaignChanged {
            campaign_id: campaign.id,
            merchant_id: campaign.merchant_id.as_str().into(),
            name: campaign.name.as_str().into(),
            quantity: campaign.quantity,
            budget: campaign.budget,
            per_user_limit: campaign.per_user_limit,
            opens_at: campaign.opens_at,
            closes_at: campaign.closes_at,
            state,
            version: campaign.version,
        })
    };
    let (kind, data) = match (before, campaign.state) {
        (_, State::Draft | State::Scheduled) => return Ok(None),
        (State::Draft | State::Scheduled | State::Closed, State::Open) => (event::CAMPAIGN_OPENED, phase()),
        (State::Open | State::Paused, State::Open) => (event::CAMPAIGN_CHANGED, changed(Taking::Open)),
        (_, State::Paused) => (event::CAMPAIGN_CHANGED, changed(Taking::Paused)),
        (_, State::Closed) => (event::CAMPAIGN_CLOSED, phase()),
    };
    about(campaign, kind, data, cause).map(Some)
}

/// The quantity or the budget was lowered to the coupons that are issued.
fn sold_out(campaign: &Campaign, cause: Option<&Cause>) -> Result<NewEvent, ChangeError> {
    let data = serde_json::to_string(&CampaignSoldOut {
        campaign_id: campaign.id,
        merchant_id: campaign.merchant_id.as_str().into(),
        quantity: campaign.coupons_max(),
    });
    about(campaign, event::CAMPAIGN_SOLD_OUT, data, cause)
}

fn about(
    campaign: &Campaign,
    kind: &'static str,
    data: Result<String, serde_json::Error>,
    cause: Option<&Cause>,
) -> Result<NewEvent, ChangeError> {
    let id = campaign.id.to_string();
    let traceparent = cause.and_then(|cause| cause.traceparent.as_ref()).map(Traceparent::as_str);
    let request_id = cause.and_then(|cause| cause.request_id.as_ref()).map(RequestId::as_str);
    Ok(NewEvent {
        id: Ulid::generate(),
        kind,
        key: id.clone(),
        subject: id,
        data: data.map_err(|error| ChangeError::Refused(error.to_string()))?,
        traceparent: traceparent.map(str::to_owned),
        request_id: request_id.map(str::to_owned),
    })
}
