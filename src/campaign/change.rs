//! To change a campaign: a transaction, then a notice to the gate.

use std::fmt::Debug;

use futures_util::future::BoxFuture;
use time::OffsetDateTime;
use ulid::Ulid;

use super::changes::{self, Change, ChangeCursor};
use super::draft::Draft;
use super::edit::{Edit, Expected};
pub use super::error::ChangeError;
use super::published::Published;
use super::queues::Queues;
use super::store::{self, Standing, Standings};
use super::synced::Synced;
pub use super::transaction::Request;
use super::transaction::{Asked, change_on, earlier_on, insert_on, record_on};
use super::{Campaign, State};
use crate::idempotency::turns::Turns;
use crate::idempotency::{KeyError, Once, Recorded};
use crate::ids::CampaignId;
use crate::lookup::Lookups;
use crate::page::{Page, PageLimit, PageRequest};
use crate::pool::Pool;
use crate::storage::{StorageError, prepared};

/// Receives a notice of each change of a campaign, after its commit. A notice is lost when the process ends before
/// it: the sweeper finds the change later by the campaign's version.
pub trait Listener: Debug + Send + Sync {
    /// Returns when the change has taken effect, or when it failed to, which the listener logs.
    fn changed<'a>(&'a self, campaign: &'a Campaign) -> BoxFuture<'a, ()>;

    /// Brings the gate to what the campaign and its coupons are, and returns what was wrong with it.
    fn sync<'a>(&'a self, campaign: &'a Campaign) -> BoxFuture<'a, Result<Synced, ChangeError>>;
}

/// Campaigns, to be created, changed and shown. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Campaigns<L> {
    pool: Pool,
    standings: Lookups<Standings>,
    shards: i16,
    turns: Turns,
    queues: Queues,
    published: Published,
    listener: L,
}

impl<L: Listener> Campaigns<L> {
    /// `listener` receives every change. Starts a task, which ends when the last clone of this is dropped.
    #[must_use]
    pub fn new(pool: Pool, shards: i16, listener: L) -> Self {
        let standings = Lookups::start(pool.clone());
        let (turns, queues, published) = (Turns::default(), Queues::new(), Published::default());
        Self { pool, standings, shards, turns, queues, published, listener }
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

    /// Whether a campaign exists and is no draft. It is remembered: what was published never becomes a draft again.
    pub async fn is_published(&self, id: CampaignId) -> Result<bool, StorageError> {
        if self.published.has(id) {
            return Ok(true);
        }
        let standing = self.show(id).await?;
        let is_published = standing.is_some_and(|standing| standing.campaign.state != State::Draft);
        if is_published {
            self.published.insert(id);
        }
        Ok(is_published)
    }

    /// Campaigns from the newest on, behind `before`, and only those in some states if any are given; at most `limit`.
    pub async fn page(
        &self,
        before: Option<CampaignId>,
        states: Option<&[State]>,
        limit: PageLimit,
    ) -> Result<Page<Standing, CampaignId>, StorageError> {
        Ok(store::page(&self.pool, before, states, limit).await?)
    }

    /// What was changed of a campaign, the newest first; nothing if no campaign has this id.
    pub async fn changes(
        &self,
        id: CampaignId,
        page: PageRequest,
    ) -> Result<Option<Page<Change, ChangeCursor>>, StorageError> {
        if self.show(id).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(changes::page(&self.pool, id, page).await?))
    }

    /// What time it is for campaigns: the clock of the database counts.
    pub async fn now(&self) -> Result<OffsetDateTime, StorageError> {
        Ok(store::now(&self.pool).await?)
    }

    /// The answer that an earlier request with the same key had: also to one that would be refused now, because time has
    /// passed.
    pub async fn earlier<T>(&self, request: &Request<T>) -> Result<Option<Recorded>, ChangeError> {
        prepared!(self.pool, |connection| earlier_on(connection, request))
    }

    /// Opens a campaign, at once or when its time comes; or again after a pause. Opening an open one changes nothing.
    pub async fn open(&self, id: CampaignId, request: &Request) -> Result<Once<Standing>, ChangeError> {
        let rule = |campaign: &Campaign, now| {
            let Campaign { state, opens_at, closes_at, .. } = *campaign;
            state.opened(opens_at, closes_at, now).ok_or(match state {
                State::Closed => ChangeError::NotAllowed { state, asked: "opened" },
                State::Draft | State::Scheduled | State::Open | State::Paused => {
                    ChangeError::Over { closes_at }
                }
            })
        };
        self.change(id, Asked::State(&rule), request).await
    }

    /// Stops the claims of a campaign that is open, until it is opened again. Pausing a paused one changes nothing.
    pub async fn pause(&self, id: CampaignId, request: &Request) -> Result<Once<Standing>, ChangeError> {
        let rule = |campaign: &Campaign, now| {
            let state = campaign.state.due(campaign.opens_at, campaign.closes_at, now);
            state.paused().ok_or(ChangeError::NotAllowed { state, asked: "paused" })
        };
        self.change(id, Asked::State(&rule), request).await
    }

    /// Closes a campaign for good.
    pub async fn close(&self, id: CampaignId, request: &Request) -> Result<Once<Standing>, ChangeError> {
        self.change(id, Asked::State(&|_, _| Ok(State::Closed)), request).await
    }

    /// Gives a campaign other fields, if it has an expected version. An edit that changes nothing makes no new version.
    pub async fn edit(
        &self,
        id: CampaignId,
        (edit, expected): (&Edit, &Expected),
        request: &Request,
    ) -> Result<Once<Standing>, ChangeError> {
        self.change(id, Asked::Edit(edit, expected), request).await
    }

    /// Compares the gate of a campaign with Postgres, and loads it again.
    pub async fn sync(&self, id: CampaignId, request: &Request<Synced>) -> Result<Once<Synced>, ChangeError> {
        let _turn = self.turns.take_for(request.keyed.as_ref()).await?;
        if request.keyed.is_some()
            && let Some(answer) = self.earlier(request).await?
        {
            return Ok(Once::Replayed(answer));
        }
        let standing = self.show(id).await?.ok_or(ChangeError::Unknown)?;
        let synced = self.listener.sync(&standing.campaign).await?;
        if request.keyed.is_none() {
            return Ok(Once::First(synced));
        }
        prepared!(self.pool, |connection| record_on(connection, request, &synced))
    }

    /// Seats of a campaign are back on sale, which is committed. Sells them at once; if Postgres does not answer, the sweeper does
    /// so a moment later.
    pub async fn restocked(&self, id: CampaignId) {
        if let Ok(Some(standing)) = self.show(id).await {
            self.listener.changed(&standing.campaign).await;
        }
    }

    async fn change(
        &self,
        id: CampaignId,
        asked: Asked<'_>,
        request: &Request,
    ) -> Result<Once<Standing>, ChangeError> {
        let turn = self.turns.take_for(request.keyed.as_ref()).await?;
        let changed = loop {
            let place = self.queues.enter(id).await.ok_or(StorageError::Overloaded)?;
            let changed = prepared!(self.pool, |connection| change_on(connection, id, asked, request));
            drop(place);
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
