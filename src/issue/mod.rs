//! To issue: the one use case that everything here exists for. The gate admits, Postgres decides,
//! and nobody is told yes before it is committed.

mod cache;
pub(crate) mod work;

use std::time::{Duration, Instant};

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::cache::Campaigns;
use crate::campaign::Campaign;
use crate::cause::Cause;
use crate::coupon::{self, Coupon};
use crate::failpoint;
use crate::gate::loader::Loader;
use crate::gate::redis::Seat;
use crate::gate::worker::Gate;
use crate::ids::{CampaignId, UserId};
use crate::writer::Writer;

/// How long after its end a campaign's gate is asked: while it is surely there, whatever the clocks say.
/// After that nothing changes any more, and Postgres says who holds what.
const GATE_ASKED_FOR: time::Duration = time::Duration::hours(1);

/// A claim that finds too many others in progress waits so long for a place, before anything is done for it; then
/// it is refused. Whoever is refused at once asks again at once, which costs as much as half a coupon: of what can
/// be served under ten times the load, 0.52 was served so, and 0.96 with this (`cargo bench --bench overload`).
const PATIENCE: Duration = Duration::from_secs(1);
/// A claim that has waited so long for a writer is refused: whoever asks again then may find a shorter
/// queue, and nobody waits for all the batches before his own while Postgres is slow. Half of what a
/// writer waits for an answer.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// A claim on its way through the gate and a writer. One of them answers it.
#[derive(Debug)]
pub struct Claim {
    pub campaign: CampaignId,
    pub user: UserId,
    /// The request that claims.
    pub cause: Cause,
    /// The pending seat, once the gate has given one.
    pub seat: Option<Seat>,
    asked_at: Instant,
    reply: oneshot::Sender<Result<Verdict, ClaimError>>,
}

type Reply = oneshot::Receiver<Result<Verdict, ClaimError>>;

impl Claim {
    fn new(campaign: CampaignId, user: UserId, cause: Cause) -> (Self, Reply) {
        let (reply, verdict) = oneshot::channel();
        (Self { campaign, user, cause, seat: None, asked_at: Instant::now(), reply }, verdict)
    }

    pub(crate) fn is_overdue(&self) -> bool {
        self.asked_at.elapsed() > WAIT_MAX
    }

    /// Whoever has gone meanwhile can ask again.
    pub(crate) fn answer(self, verdict: Result<Verdict, ClaimError>) {
        drop(self.reply.send(verdict));
    }
}

/// What the gate or, when it was let through there, Postgres says to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is committed.
    Issued(Coupon),
    /// He holds all that he may have; this is the newest. It is committed.
    Held(Coupon),
    /// He has all the seats that he may have, says the gate: some may not be committed yet, or never.
    Already,
    /// All seats are taken, says the gate, and some of them are pending: one may be that of a coupon which
    /// he has.
    Taken,
    SoldOut,
    NotOpen,
    Closed,
}

/// Why there is no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    #[error("too many claims wait")]
    Overloaded,
    #[error("the gate cannot be reached")]
    GateUnreachable,
    #[error("the gate is being loaded")]
    GateUnloaded,
    #[error("nothing was written")]
    NotWritten,
    #[error("it is not known whether the coupon was written")]
    Unknown,
}

/// What becomes of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Issued(Coupon),
    /// The user holds his coupon; the campaign gives one to each.
    AlreadyIssued(Coupon),
    /// The user holds as many as the campaign gives to one; this is the newest.
    LimitReached(Coupon),
    SoldOut,
    NotOpen {
        opens_at: OffsetDateTime,
    },
    Closed,
    NoSuchCampaign,
}

impl Outcome {
    fn held(coupon: Coupon, campaign: &Campaign) -> Self {
        if campaign.per_user_limit == 1 { Self::AlreadyIssued(coupon) } else { Self::LimitReached(coupon) }
    }
}

/// Why it is not known what becomes of a claim. To ask again is safe, and finds out.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("read campaigns and coupons")]
    Database(#[from] sqlx::Error),
}

/// Issues coupons.
#[derive(Debug)]
pub struct Issuer {
    pool: PgPool,
    campaigns: Campaigns,
    gate: Gate,
    loader: Loader,
    /// One for each shard.
    writers: Vec<Writer>,
}

impl Issuer {
    /// `writers` are those of shard 0, 1, ….
    #[must_use]
    pub fn new(pool: PgPool, gate: Gate, loader: Loader, writers: Vec<Writer>) -> Self {
        Self { campaigns: Campaigns::new(pool.clone()), pool, gate, loader, writers }
    }

    /// The gate that it asks.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Whether every writer is connected to Postgres.
    #[must_use]
    pub fn can_write(&self) -> bool {
        self.writers.iter().all(Writer::is_connected)
    }

    /// Lets the gate know of a change that is committed.
    pub async fn campaign_changed(&self, campaign: &Campaign) {
        failpoint::reached("campaign.changed").await;
        self.campaigns.forget(campaign.id);
        if let Err(error) = self.loader.tell(campaign).await {
            tracing::warn!(campaign = %campaign.id, error = &error as &dyn std::error::Error, "the gate was not told of a change");
        }
    }

    /// Gives the user a coupon of the campaign, or says why not.
    pub async fn issue(
        &self,
        campaign: CampaignId,
        user: UserId,
        cause: Cause,
    ) -> Result<Outcome, IssueError> {
        let Some(snapshot) = self.campaigns.get(campaign).await? else { return Ok(Outcome::NoSuchCampaign) };
        let campaign = &snapshot.campaign;
        let writer = usize::try_from(campaign.shard.0).ok().and_then(|shard| self.writers.get(shard));
        let Some(writer) = writer else { return Err(ClaimError::NotWritten.into()) };
        let Ok(_place) = timeout(PATIENCE, writer.place()).await else {
            return Err(ClaimError::Overloaded.into());
        };
        if snapshot.is_over_for(GATE_ASKED_FOR) {
            let held = coupon::store::held(&self.pool, campaign.id, &user, campaign.per_user_limit).await?;
            return Ok(held.map_or(Outcome::Closed, |coupon| Outcome::held(coupon, campaign)));
        }
        let (claim, verdict) = Claim::new(campaign.id, user.clone(), cause.clone());
        failpoint::reached("claim.asked").await;
        self.gate.admit(claim, writer.clone());
        let mut verdict = verdict.await.unwrap_or(Err(ClaimError::Unknown));
        if let Ok(said @ (Verdict::Already | Verdict::Taken)) = &verdict {
            let held = coupon::store::held(&self.pool, campaign.id, &user, campaign.per_user_limit).await?;
            if let Some(coupon) = held {
                verdict = Ok(Verdict::Held(coupon));
            } else if *said == Verdict::Taken {
                verdict = Ok(Verdict::SoldOut);
            } else {
                let (claim, judged) = Claim::new(campaign.id, user, cause);
                if let Err(claim) = writer.write(claim) {
                    claim.answer(Err(ClaimError::Overloaded));
                }
                verdict = judged.await.unwrap_or(Err(ClaimError::Unknown));
            }
        }
        failpoint::reached("claim.judged").await;
        if verdict == Err(ClaimError::GateUnloaded) {
            self.loader.want(campaign.id);
        }
        Ok(match verdict? {
            Verdict::Issued(coupon) => Outcome::Issued(coupon),
            Verdict::Held(coupon) => Outcome::held(coupon, campaign),
            Verdict::Already | Verdict::Taken => return Err(ClaimError::Unknown.into()), // Postgres does not say so
            Verdict::SoldOut => Outcome::SoldOut,
            Verdict::NotOpen => Outcome::NotOpen { opens_at: campaign.opens_at },
            Verdict::Closed => Outcome::Closed,
        })
    }
}
