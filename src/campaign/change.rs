//! To change a campaign: its row and the event about it in one transaction, then a notice to the gate. The one
//! place that does it, for operators and for the clock.

use std::fmt::Debug;

use futures_util::future::BoxFuture;
use outbox_relay::in_time::InTime as _;
use outbox_relay::{AppendError, NewEvent};
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use ulid::Ulid;

use super::draft::Draft;
use super::store::{self, Snapshot, Standing, Standings};
use super::{Campaign, State};
use crate::event::{self, CampaignChanged};
use crate::failpoint;
use crate::idempotency::store as keys;
use crate::idempotency::turns::Turns;
use crate::idempotency::{KeyError, Keyed, Once, Recorded};
use crate::ids::CampaignId;
use crate::lookup::Lookups;
use crate::pool::Pool;
use crate::storage::{StorageError, prepared};

/// Receives a notice of each change of a campaign, after its commit. A notice is lost when the process ends before
/// it: the sweeper finds the change later by the campaign's version.
pub trait Listener: Debug + Send + Sync {
    /// Returns when the change has taken effect, or when it failed to, which the listener logs.
    fn changed<'a>(&'a self, campaign: &'a Campaign) -> BoxFuture<'a, ()>;
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

/// Campaigns, to be created, changed and shown. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Campaigns<L> {
    pool: Pool,
    standings: Lookups<Standings>,
    shards: i16,
    turns: Turns,
    listener: L,
}

/// A request to create or change a campaign.
#[derive(Clone, Debug)]
pub struct Request {
    /// With its idempotency key, if it has one.
    pub keyed: Option<Keyed>,
    /// The answer that is kept with the key.
    pub answer: fn(&Standing) -> Result<Recorded, serde_json::Error>,
}

impl<L: Listener> Campaigns<L> {
    /// `listener` receives every change. Starts a task, which ends when the last clone of this is dropped.
    #[must_use]
    pub fn new(pool: Pool, shards: i16, listener: L) -> Self {
        Self { standings: Lookups::start(pool.clone()), pool, shards, turns: Turns::default(), listener }
    }

    /// Creates a draft.
    pub async fn create(&self, draft: &Draft, request: &Request) -> Result<Once<Standing>, ChangeError> {
        let id = CampaignId(Ulid::generate());
        let turn = self.turns.take_for(request.keyed.as_ref()).await?;
        loop {
            let created =
                prepared!(self.pool, |connection| insert_on(connection, id, draft, self.shards, request));
            match created {
                Err(ChangeError::Key(KeyError::InUse)) if turn.may_go_on().await => {}
                done => return done,
            }
        }
    }

    /// One campaign with its counts.
    pub async fn show(&self, id: CampaignId) -> Result<Option<Standing>, StorageError> {
        self.standings.get(id).await
    }

    /// Campaigns from the newest on, behind `before`, and only those in some states if any are given; at most `limit`.
    pub async fn page(
        &self,
        before: Option<CampaignId>,
        states: Option<&[State]>,
        limit: i64,
    ) -> Result<Vec<Standing>, StorageError> {
        Ok(store::page(&self.pool, before, states, limit).await?)
    }

    /// What time it is for campaigns: the clock of the database counts.
    pub async fn now(&self) -> Result<OffsetDateTime, StorageError> {
        Ok(store::now(&self.pool).await?)
    }

    /// The answer that an earlier request with the same key had: also to one that would be refused now, because time has
    /// passed.
    pub async fn earlier(&self, request: &Request) -> Result<Option<Recorded>, ChangeError> {
        prepared!(self.pool, |connection| earlier_on(connection, request))
    }

    /// Opens a campaign, at once or when its time comes. Opening an open one changes nothing.
    pub async fn open(&self, id: CampaignId, request: &Request) -> Result<Once<Standing>, ChangeError> {
        self.change(id, request, |campaign, now| {
            let Campaign { state, opens_at, closes_at, .. } = *campaign;
            state.opened(opens_at, closes_at, now).ok_or(match state {
                State::Closed => ChangeError::NotAllowed { state, asked: "opened" },
                State::Draft | State::Scheduled | State::Open | State::Paused => {
                    ChangeError::Over { closes_at }
                }
            })
        })
        .await
    }

    /// Closes a campaign for good.
    pub async fn close(&self, id: CampaignId, request: &Request) -> Result<Once<Standing>, ChangeError> {
        self.change(id, request, |_, _| Ok(State::Closed)).await
    }

    async fn change(
        &self,
        id: CampaignId,
        request: &Request,
        rule: impl Fn(&Campaign, OffsetDateTime) -> Result<State, ChangeError>,
    ) -> Result<Once<Standing>, ChangeError> {
        let turn = self.turns.take_for(request.keyed.as_ref()).await?;
        let changed = loop {
            let changed = prepared!(self.pool, |connection| change_on(connection, id, request, &rule));
            match changed {
                Err(ChangeError::Key(KeyError::InUse)) if turn.may_go_on().await => {}
                done => break done?,
            }
        };
        if let Once::First(standing) = &changed {
            self.listener.changed(&standing.campaign).await;
        }
        Ok(changed)
    }
}

async fn insert_on(
    connection: &mut PgConnection,
    id: CampaignId,
    draft: &Draft,
    shards: i16,
    request: &Request,
) -> Result<Once<Standing>, ChangeError> {
    let mut transaction = connection.begin().in_time().await?;
    if let Some(answer) = earlier(&mut transaction, request).await? {
        transaction.commit().in_time().await?;
        return Ok(Once::Replayed(answer));
    }
    let campaign = store::insert(&mut transaction, id, draft, shards).await?;
    let standing = Standing { left: campaign.quantity, issued: 0, campaign };
    finish(transaction, request, standing).await
}

/// Brings a campaign into the state that `rule` returns, and appends the event in the same transaction.
async fn change_on(
    connection: &mut PgConnection,
    id: CampaignId,
    request: &Request,
    rule: impl Fn(&Campaign, OffsetDateTime) -> Result<State, ChangeError>,
) -> Result<Once<Standing>, ChangeError> {
    let mut transaction = connection.begin().in_time().await?;
    if let Some(answer) = earlier(&mut transaction, request).await? {
        transaction.commit().in_time().await?;
        return Ok(Once::Replayed(answer));
    }
    let locked = store::lock(&mut transaction, id).await?;
    let Snapshot { campaign, taken_at } = locked.ok_or(ChangeError::Unknown)?;
    let state = rule(&campaign, taken_at)?;
    if state != campaign.state {
        save(&mut transaction, id, state).await?;
    }
    let standing = store::standing(&mut transaction, id).await?;
    finish(transaction, request, standing).await
}

async fn earlier_on(
    connection: &mut PgConnection,
    request: &Request,
) -> Result<Option<Recorded>, ChangeError> {
    let mut transaction = connection.begin().in_time().await?;
    let earlier = earlier(&mut transaction, request).await?;
    transaction.commit().in_time().await?;
    Ok(earlier)
}

async fn earlier(transaction: &mut PgConnection, request: &Request) -> Result<Option<Recorded>, ChangeError> {
    match &request.keyed {
        Some(keyed) => Ok(keys::begin(transaction, keyed).await?),
        None => Ok(None),
    }
}

/// Keeps the answer with the key, and commits.
async fn finish(
    mut transaction: Transaction<'_, Postgres>,
    request: &Request,
    standing: Standing,
) -> Result<Once<Standing>, ChangeError> {
    if let Some(keyed) = &request.keyed {
        let answer = (request.answer)(&standing).map_err(|error| ChangeError::Refused(error.to_string()))?;
        keys::record(&mut transaction, keyed, &answer).await?;
        failpoint::reached("campaign.recorded").await;
    }
    transaction.commit().in_time().await?;
    Ok(Once::First(standing))
}

/// Saves the state of a campaign, whose row the transaction has locked, and appends the event about it.
pub(super) async fn save(
    transaction: &mut PgConnection,
    id: CampaignId,
    state: State,
) -> Result<Campaign, ChangeError> {
    let changed = store::save_state(transaction, id, state).await?;
    // The last change, because the shard stays locked from here to the commit: every coupon that was issued before
    // comes before this event, and every batch after it sees the new state.
    if let Some(event) = event_of(&changed) {
        outbox_relay::append(transaction, changed.shard, &[event]).await?;
    }
    Ok(changed)
}

/// A time as JSON has it.
fn written(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

/// The event about the state that a campaign is in now; nothing for states that are not published.
fn event_of(campaign: &Campaign) -> Option<NewEvent> {
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
