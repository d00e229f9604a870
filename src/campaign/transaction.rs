//! The transaction of a change of a campaign: its row, the event about it, and the idempotency key of the request. The one
//! place that writes them, for operators and for the clock; `issue_batch_2()` alone also opens a scheduled campaign,
//! together with its first coupon.

use outbox_relay::in_time::InTime as _;
use outbox_relay::{AppendError, NewEvent};
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use ulid::Ulid;

use super::draft::Draft;
use super::store::{self, Snapshot, Standing};
use super::{Campaign, State};
use crate::cause::{Cause, RequestId, Traceparent};
use crate::event::{self, CampaignChanged, CampaignPhase, Taking};
use crate::failpoint;
use crate::idempotency::store as keys;
use crate::idempotency::{KeyError, Keyed, Once, Recorded};
use crate::ids::CampaignId;
use crate::storage::{StorageError, of_postgres};

/// A request to create or change a campaign.
#[derive(Clone, Debug)]
pub struct Request {
    /// The event about the change names it.
    pub cause: Cause,
    /// With its idempotency key, if it has one.
    pub keyed: Option<Keyed>,
    /// The answer that is kept with the key.
    pub answer: fn(&Standing) -> Result<Recorded, serde_json::Error>,
}

/// Why a campaign was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("no campaign has this id")]
    Unknown,
    #[error("a campaign that is {} cannot be {asked}", state.as_str())]
    NotAllowed { state: State, asked: &'static str },
    #[error("the campaign cannot be opened: its closes_at, {}, has passed", written(*closes_at))]
    Over { closes_at: OffsetDateTime },
    #[error("change a campaign")]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Key(KeyError),
    /// The outbox refused the event: a fault of this program.
    #[error("append the event of a change: {0}")]
    Refused(String),
}

impl From<sqlx::Error> for ChangeError {
    fn from(error: sqlx::Error) -> Self {
        Self::Storage(error.into())
    }
}

impl From<KeyError> for ChangeError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Storage(error) => Self::Storage(error),
            error @ (KeyError::InUse | KeyError::Reused) => Self::Key(error),
        }
    }
}

impl From<AppendError> for ChangeError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Database(error) => error.into(),
            AppendError::Refused(constraint) => Self::Refused(constraint),
        }
    }
}

/// Creates a draft.
pub(super) async fn insert_on(
    connection: &mut PgConnection,
    id: CampaignId,
    draft: &Draft,
    shards: i16,
    request: &Request,
) -> Result<Once<Standing>, ChangeError> {
    let mut transaction = connection.begin().in_time().await?;
    let created = insert_in(&mut transaction, id, draft, shards, request).await;
    ended(transaction, created).await
}

async fn insert_in(
    transaction: &mut PgConnection,
    id: CampaignId,
    draft: &Draft,
    shards: i16,
    request: &Request,
) -> Result<Once<Standing>, ChangeError> {
    if let Some(answer) = earlier(transaction, request).await? {
        return Ok(Once::Replayed(answer));
    }
    let campaign = store::insert(transaction, id, draft, shards).await?;
    let standing = Standing { left: campaign.quantity, issued: 0, campaign };
    recorded(transaction, request, standing).await
}

/// Brings a campaign into the state that `rule` returns, and appends the event in the same transaction.
pub(super) async fn change_on(
    connection: &mut PgConnection,
    id: CampaignId,
    request: &Request,
    rule: impl Fn(&Campaign, OffsetDateTime) -> Result<State, ChangeError>,
) -> Result<Once<Standing>, ChangeError> {
    let mut transaction = connection.begin().in_time().await?;
    let changed = change_in(&mut transaction, id, request, rule).await;
    ended(transaction, changed).await
}

async fn change_in(
    transaction: &mut PgConnection,
    id: CampaignId,
    request: &Request,
    rule: impl Fn(&Campaign, OffsetDateTime) -> Result<State, ChangeError>,
) -> Result<Once<Standing>, ChangeError> {
    if let Some(answer) = earlier(transaction, request).await? {
        return Ok(Once::Replayed(answer));
    }
    let locked = store::lock(transaction, id).await?;
    let Snapshot { campaign, taken_at } = locked.ok_or(ChangeError::Unknown)?;
    let state = rule(&campaign, taken_at)?;
    if state != campaign.state {
        let mut before = campaign;
        // Its time has come, and nobody has noticed yet: it opens first.
        if (before.state, state) == (State::Scheduled, State::Paused) {
            before = save(transaction, &before, State::Open, None).await?;
        }
        save(transaction, &before, state, Some(&request.cause)).await?;
    }
    let standing = store::standing(transaction, id).await?;
    recorded(transaction, request, standing).await
}

/// The answer that is kept with the key of a request.
pub(super) async fn earlier_on(
    connection: &mut PgConnection,
    request: &Request,
) -> Result<Option<Recorded>, ChangeError> {
    let mut transaction = connection.begin().in_time().await?;
    let earlier = earlier(&mut transaction, request).await;
    ended(transaction, earlier).await
}

/// Ends a transaction: also that of a request which is refused, so that its locks are free and its connection stays.
async fn ended<T>(
    transaction: Transaction<'_, Postgres>,
    result: Result<T, ChangeError>,
) -> Result<T, ChangeError> {
    match &result {
        Ok(_) => {
            transaction.commit().in_time().await?;
            failpoint::reached("campaign.committed").await;
        }
        Err(error) if of_postgres(error).is_none() => transaction.rollback().in_time().await?,
        Err(_) => {} // the connection is closed
    }
    result
}

async fn earlier(transaction: &mut PgConnection, request: &Request) -> Result<Option<Recorded>, ChangeError> {
    match &request.keyed {
        Some(keyed) => Ok(keys::begin(transaction, keyed).await?),
        None => Ok(None),
    }
}

/// Keeps the answer with the key.
async fn recorded(
    transaction: &mut PgConnection,
    request: &Request,
    standing: Standing,
) -> Result<Once<Standing>, ChangeError> {
    if let Some(keyed) = &request.keyed {
        let answer = (request.answer)(&standing).map_err(|error| ChangeError::Refused(error.to_string()))?;
        keys::record(transaction, keyed, &answer).await?;
        failpoint::reached("campaign.recorded").await;
    }
    Ok(Once::First(standing))
}

/// Saves the state of a campaign, whose row the transaction has locked, and appends the event about it. The clock is no
/// cause.
pub(super) async fn save(
    transaction: &mut PgConnection,
    before: &Campaign,
    state: State,
    cause: Option<&Cause>,
) -> Result<Campaign, ChangeError> {
    let changed = store::save_state(transaction, before.id, state).await?;
    // The last change, because the shard stays locked from here to the commit: every coupon that was issued before
    // comes before this event, and every batch after it sees the new state.
    if let Some(event) = event_of(before.state, &changed, cause)? {
        outbox_relay::append(transaction, changed.shard, &[event]).await?;
    }
    Ok(changed)
}

/// The event about a campaign that was in the state `before`; nothing as long as it has not been opened.
fn event_of(
    before: State,
    campaign: &Campaign,
    cause: Option<&Cause>,
) -> Result<Option<NewEvent>, ChangeError> {
    let phase = || CampaignPhase {
        campaign_id: campaign.id,
        merchant_id: campaign.merchant_id.as_str().into(),
        name: campaign.name.as_str().into(),
        quantity: campaign.quantity,
        version: campaign.version,
    };
    let changed = |state| CampaignChanged {
        campaign_id: campaign.id,
        merchant_id: campaign.merchant_id.as_str().into(),
        name: campaign.name.as_str().into(),
        quantity: campaign.quantity,
        per_user_limit: campaign.per_user_limit,
        opens_at: campaign.opens_at,
        closes_at: campaign.closes_at,
        state,
        version: campaign.version,
    };
    let (kind, data) = match (before, campaign.state) {
        (State::Draft | State::Scheduled | State::Closed, State::Open) => {
            (event::CAMPAIGN_OPENED, serde_json::to_string(&phase()))
        }
        (State::Open | State::Paused, State::Open) => {
            (event::CAMPAIGN_CHANGED, serde_json::to_string(&changed(Taking::Open)))
        }
        (_, State::Paused) => (event::CAMPAIGN_CHANGED, serde_json::to_string(&changed(Taking::Paused))),
        (_, State::Closed) => (event::CAMPAIGN_CLOSED, serde_json::to_string(&phase())),
        (_, State::Draft | State::Scheduled) => return Ok(None),
    };
    let data = data.map_err(|error| ChangeError::Refused(error.to_string()))?;
    let id = campaign.id.to_string();
    let traceparent = cause.and_then(|cause| cause.traceparent.as_ref()).map(Traceparent::as_str);
    let request_id = cause.and_then(|cause| cause.request_id.as_ref()).map(RequestId::as_str);
    Ok(Some(NewEvent {
        id: Ulid::generate(),
        kind,
        key: id.clone(),
        subject: id,
        data,
        traceparent: traceparent.map(str::to_owned),
        request_id: request_id.map(str::to_owned),
    }))
}

/// A time as JSON has it.
fn written(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}
