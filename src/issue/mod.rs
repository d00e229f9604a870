//! To issue: the use case that everything here exists for. The gate admits, Postgres decides, and nobody is told
//! yes before it is committed.

mod cache;
mod claim;
mod holders;
mod listener;
pub mod metrics;
mod refusals;
pub mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use self::cache::Campaigns;
pub use self::claim::{Asking, Claim, ClaimError, IssueError, Outcome, Verdict};
use self::claim::{Fate, without_gate};
use self::metrics::Metrics;
use self::refusals::Refusals;
use crate::campaign::store::{self, Snapshot};
use crate::campaign::{Campaign, State};
use crate::cause::Cause;
use crate::coupon::Refusal;
use crate::coupon::store::{Holdings, Newest};
use crate::failpoint;
use crate::gate::loader::Loader;
use crate::gate::seat::Denial;
use crate::gate::worker::Gate;
use crate::idempotency::Keyed;
use crate::idempotency::store::Claimed;
use crate::idempotency::turns::Turns;
use crate::ids::{CampaignId, UserId};
use crate::pool::Pool;
use crate::writer::Writer;

/// How long after a campaign's end its gate is trusted: it is surely there, whatever the clocks say. After that
/// nothing changes any more, and Postgres alone answers.
const GATE_TRUSTED_AFTER_CLOSE: time::Duration = time::Duration::hours(1);

/// How long a claim waits for a place among those in progress, before anything is done for it; then it is refused.
/// A client that is refused at once retries at once, which costs half as much as a coupon: under ten times the load
/// that can be served, 0.52 of it was served without this wait, and 0.96 with it (`cargo bench --bench overload`).
const PLACE_WAIT_MAX: Duration = Duration::from_secs(1);

/// Issues coupons.
#[derive(Debug)]
pub struct Issuer {
    pool: Pool,
    campaigns: Campaigns,
    holdings: Holdings,
    refusals: Arc<Refusals>,
    gate: Gate<Asking>,
    loader: Loader,
    /// The writers of shard 0, 1, ….
    writers: Vec<Writer<Claim>>,
    claimed: Claimed,
    turns: Turns,
    metrics: Metrics,
}

impl Issuer {
    /// `writers` are those of shard 0, 1, …. Starts a task, which ends when this is dropped.
    #[must_use]
    pub fn new(
        pool: Pool,
        gate: Gate<Asking>,
        loader: Loader,
        writers: Vec<Writer<Claim>>,
        metrics: Metrics,
    ) -> Self {
        let (campaigns, holdings) = (Campaigns::new(pool.clone()), Holdings::new(pool.clone()));
        let refusals = Arc::new(Refusals::new(pool.clone()));
        let claimed = Claimed::new(pool.clone());
        let turns = Turns::default();
        Self { pool, campaigns, holdings, refusals, gate, loader, writers, claimed, turns, metrics }
    }

    /// Whether Redis gave seats, at the latest attempt; of a Redis Cluster, at least one node.
    #[must_use]
    pub fn gate_is_reachable(&self) -> bool {
        self.gate.is_reachable()
    }

    /// The nodes of a Redis Cluster that give no seats, one sentence each.
    #[must_use]
    pub fn gate_nodes_away(&self) -> Vec<String> {
        self.gate.away()
    }

    /// Whether every writer is connected to Postgres.
    #[must_use]
    pub fn can_write(&self) -> bool {
        self.writers.iter().all(Writer::is_connected)
    }

    /// What claims come to. The depths of the queues are those of this moment.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.metrics.sample(&self.gate, &self.writers, self.refusals.remembered());
        &self.metrics
    }

    /// Gives the user a coupon of the campaign, or says why not.
    ///
    /// # Errors
    /// See [`IssueError`]. A retry is safe.
    pub async fn issue(
        &self,
        campaign: CampaignId,
        user: UserId,
        cause: Cause,
    ) -> Result<Outcome, IssueError> {
        let keyed = Keyed::of(&cause, "claimCoupon", &campaign.to_string(), user.as_str().as_bytes());
        let turn = self.turns.take_for(keyed.as_ref()).await.map_err(|_| IssueError::KeyInUse)?;
        let keyed = keyed.as_ref();
        if let Some((shard, refusal)) = self.refusals.answer(campaign, &user) {
            if keyed.is_none() {
                self.metrics.answered_from_memory();
            }
            let result = self.or_replayed(refusal, keyed, &user).await;
            self.metrics.answered(shard, &result);
            return result;
        }
        let Some(snapshot) = self.campaigns.get(campaign).await? else {
            return Ok(Outcome::NoSuchCampaign);
        };
        if snapshot.campaign.require_idempotency_key && keyed.is_none() {
            return Ok(Outcome::KeyRequired);
        }
        let result = loop {
            match self.judge(&snapshot, &user, &cause, keyed).await {
                // Without a place, which others need.
                Err(IssueError::KeyInUse) if turn.may_go_on().await => {}
                judged => break judged,
            }
        };
        failpoint::reached("claim.judged").await;
        match &result {
            Ok(Verdict::Issued(_)) => self.refusals.forget(campaign),
            Ok(Verdict::Held(_) | Verdict::Replayed(_) | Verdict::Refused(_, Some(_))) => {
                self.refusals.holds(campaign, &user);
            }
            Ok(Verdict::Refused(_, None) | Verdict::KeyReused) | Err(_) => {}
        }
        let result = match result {
            Ok(verdict) => self.or_replayed(Outcome::new(verdict, &snapshot), keyed, &user).await,
            Err(error) => Err(error),
        };
        self.metrics.answered(snapshot.campaign.shard, &result);
        result
    }

    /// What an earlier claim with the key got, in place of a refusal: neither the gate nor the memory of refusals knows
    /// keys.
    async fn or_replayed(
        &self,
        outcome: Outcome,
        keyed: Option<&Keyed>,
        user: &UserId,
    ) -> Result<Outcome, IssueError> {
        let Some(keyed) = keyed else { return Ok(outcome) };
        if matches!(outcome, Outcome::Issued(_) | Outcome::Replayed(_) | Outcome::KeyReused) {
            return Ok(outcome);
        }
        Ok(match self.claimed.coupon(keyed).await? {
            Some(coupon) if coupon.user_id == *user => Outcome::Replayed(coupon),
            Some(_) => Outcome::KeyReused,
            None => outcome,
        })
    }

    async fn judge(
        &self,
        snapshot: &Snapshot,
        user: &UserId,
        cause: &Cause,
        keyed: Option<&Keyed>,
    ) -> Result<Verdict, IssueError> {
        let campaign = &snapshot.campaign;
        let writer = usize::try_from(campaign.shard.0).ok().and_then(|shard| self.writers.get(shard));
        let Some(writer) = writer else { return Err(ClaimError::NotWritten.into()) };
        let Ok(_place) = timeout(PLACE_WAIT_MAX, writer.place()).await else {
            return Err(ClaimError::Overloaded.into());
        };
        let asked_at = Instant::now();
        if snapshot.is_over_for(GATE_TRUSTED_AFTER_CLOSE) {
            self.refusals.learn(campaign.id, Refusal::Closed, asked_at);
            return self.refused(campaign, user, Refusal::Closed, 0, keyed).await;
        }
        // A holder who asks again is shown the coupon by Postgres, and the gate need not be asked. Not where the limit may
        // allow more: that would be one wait for Postgres more.
        if campaign.per_user_limit == 1
            && self.refusals.knows_holder(campaign.id, user)
            && let Some(held) = self.held(campaign, user).await?
        {
            return Ok(held);
        }
        let (claim, fate) = Claim::new(campaign.id, user.clone(), cause.clone(), keyed.cloned());
        failpoint::reached("claim.asked").await;
        self.gate.admit(Asking { claim, writer: writer.clone() });
        match fate.await.unwrap_or(Err(ClaimError::Unknown)) {
            Ok(Fate::Judged(verdict)) => Ok(verdict),
            Ok(Fate::Denied(Denial::Refused(refusal))) => {
                self.refusals.learn(campaign.id, refusal, asked_at);
                Ok(Verdict::Refused(refusal, None))
            }
            Ok(Fate::Denied(Denial::RefusedMore(refusal, seats))) => {
                self.refused(campaign, user, refusal, seats, keyed).await
            }
            Ok(Fate::Denied(Denial::Full(seats))) => {
                self.refused(campaign, user, Refusal::SoldOut, seats, keyed).await
            }
            Ok(Fate::Denied(Denial::Already)) => match self.held(campaign, user).await? {
                Some(held) => Ok(held),
                // A crash came between seat and commit: Postgres decides without the gate.
                None => {
                    Ok(without_gate(writer, campaign.id, user.clone(), cause.clone(), keyed.cloned()).await?)
                }
            },
            Ok(Fate::Denied(Denial::Unloaded)) => {
                self.loader.want(campaign.id);
                if self.is_draft(campaign).await? {
                    return Ok(Verdict::Refused(Refusal::NotOpen, None));
                }
                Err(ClaimError::GateUnloaded.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a campaign is a draft now. Only one that was a moment ago is looked up.
    async fn is_draft(&self, campaign: &Campaign) -> Result<bool, sqlx::Error> {
        if campaign.state != State::Draft {
            return Ok(false);
        }
        let now = store::get(&self.pool, campaign.id).await?;
        Ok(now.is_some_and(|now| now.campaign.state == State::Draft))
    }

    /// The verdict on a user who holds as many coupons as the campaign allows; nothing if they hold fewer.
    async fn held(&self, campaign: &Campaign, user: &UserId) -> Result<Option<Verdict>, IssueError> {
        let newest = self.holdings.newest(campaign.id, user.clone()).await?;
        let held = newest.filter(|newest| newest.nth >= campaign.per_user_limit);
        Ok(held.map(|newest| Verdict::Held(newest.coupon)))
    }

    /// The verdict on a user who gets no seat, and may hold coupons. If fewer than their `seats`, one of these may be that of
    /// an earlier request with the key, which another process serves: then [`IssueError::KeyInUse`].
    async fn refused(
        &self,
        campaign: &Campaign,
        user: &UserId,
        refusal: Refusal,
        seats: i32,
        keyed: Option<&Keyed>,
    ) -> Result<Verdict, IssueError> {
        let newest = self.holdings.newest(campaign.id, user.clone()).await?;
        let coupons = newest.as_ref().map_or(0, |newest| newest.nth);
        if keyed.is_some() && coupons < seats.min(campaign.per_user_limit) {
            return match self.or_replayed(Outcome::SoldOut(None), keyed, user).await? {
                Outcome::Replayed(coupon) => Ok(Verdict::Replayed(coupon)),
                Outcome::KeyReused => Ok(Verdict::KeyReused),
                _ => Err(IssueError::KeyInUse),
            };
        }
        Ok(match newest {
            Some(Newest { nth, coupon, .. }) if nth >= campaign.per_user_limit => Verdict::Held(coupon),
            fewer => Verdict::Refused(refusal, fewer.map(|newest| newest.coupon)),
        })
    }
}
