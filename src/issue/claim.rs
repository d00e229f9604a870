//! A claim: one user asks for one coupon; and what can become of it.

use std::time::Instant;

use time::OffsetDateTime;
use tokio::sync::oneshot;

use crate::campaign::State;
use crate::campaign::store::Snapshot;
use crate::cause::Cause;
use crate::coupon::{Coupon, Refusal};
use crate::gate::candidate::{Candidate, GateError};
use crate::gate::seat::{Admission, Denial, Seat};
use crate::idempotency::Keyed;
use crate::ids::{CampaignId, UserId};
use crate::storage::StorageError;
use crate::writer::{WriteError, Writer};

/// A claim on its way through the gate and a writer. One of them answers it.
#[derive(Debug)]
pub struct Claim {
    pub campaign: CampaignId,
    pub user: UserId,
    /// The request that claims.
    pub cause: Cause,
    /// The request as its idempotency key knows it, if it has one.
    pub keyed: Option<Keyed>,
    /// The pending seat, once the gate has given one.
    pub seat: Option<Seat>,
    pub(super) asked_at: Instant,
    reply: oneshot::Sender<Result<Fate, ClaimError>>,
}

/// What becomes of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The gate gave no seat.
    Denied(Denial),
    /// Postgres decided.
    Judged(Verdict),
}

/// What Postgres decides about a claim. Coupons are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The user has this new coupon.
    Issued(Coupon),
    /// The user holds as many coupons as the campaign allows; this is the newest.
    Held(Coupon),
    /// No coupon for this claim; the newest one that the user holds, if they hold fewer than the campaign allows.
    Refused(Refusal, Option<Coupon>),
    /// The same claim with this idempotency key got this coupon, as it was issued.
    Replayed(Coupon),
    /// Another claim has used the idempotency key.
    KeyReused,
}

/// Why nothing is known of a claim's fate. A retry is safe, and finds out.
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

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Issued(Coupon),
    /// The same claim with this idempotency key got this coupon, as it was issued.
    Replayed(Coupon),
    /// The user holds a coupon of the campaign, which gives one to each.
    AlreadyIssued(Coupon),
    /// The user holds as many coupons as the campaign gives to one user; this is the newest.
    LimitReached(Coupon),
    /// With the newest coupon that the user holds, if they hold some and fewer than the limit; so the next two.
    SoldOut(Option<Coupon>),
    /// `opens_at` is the time at which it opens, unless only an operator can open it.
    NotOpen {
        opens_at: Option<OffsetDateTime>,
        coupon: Option<Coupon>,
    },
    Closed(Option<Coupon>),
    NoSuchCampaign,
    /// The campaign demands an idempotency key, and the claim has none.
    KeyRequired,
    /// Another claim has used the idempotency key.
    KeyReused,
}

/// Why a claim has no answer. A retry is safe, and finds out.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("a claim with this idempotency key is in progress")]
    KeyInUse,
    #[error("read campaigns and coupons")]
    Storage(#[from] StorageError),
}

impl From<sqlx::Error> for IssueError {
    fn from(error: sqlx::Error) -> Self {
        Self::Storage(error.into())
    }
}

impl Claim {
    /// A claim, and where its fate arrives.
    pub(super) fn new(
        campaign: CampaignId,
        user: UserId,
        cause: Cause,
        keyed: Option<Keyed>,
    ) -> (Self, oneshot::Receiver<Result<Fate, ClaimError>>) {
        let (reply, fate) = oneshot::channel();
        (Self { campaign, user, cause, keyed, seat: None, asked_at: Instant::now(), reply }, fate)
    }

    /// A caller that has gone meanwhile can retry.
    pub(super) fn answer(self, fate: Result<Fate, ClaimError>) {
        drop(self.reply.send(fate));
    }
}

impl From<WriteError> for ClaimError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Overloaded => Self::Overloaded,
            WriteError::NotWritten => Self::NotWritten,
            WriteError::Unknown => Self::Unknown,
        }
    }
}

impl From<GateError> for ClaimError {
    fn from(error: GateError) -> Self {
        match error {
            GateError::Overloaded => Self::Overloaded,
            GateError::Unreachable => Self::GateUnreachable,
        }
    }
}

impl Outcome {
    pub(super) fn new(verdict: Verdict, snapshot: &Snapshot) -> Self {
        let Snapshot { campaign, taken_at } = snapshot;
        match verdict {
            Verdict::Issued(coupon) => Self::Issued(coupon),
            Verdict::Replayed(coupon) => Self::Replayed(coupon),
            Verdict::KeyReused => Self::KeyReused,
            Verdict::Held(coupon) if campaign.per_user_limit == 1 => Self::AlreadyIssued(coupon),
            Verdict::Held(coupon) => Self::LimitReached(coupon),
            Verdict::Refused(Refusal::SoldOut, coupon) => Self::SoldOut(coupon),
            Verdict::Refused(Refusal::NotOpen, coupon) => {
                let waits = matches!(campaign.state, State::Draft | State::Paused);
                let opens_at = Some(campaign.opens_at).filter(|opens_at| !waits || opens_at > taken_at);
                Self::NotOpen { opens_at, coupon }
            }
            Verdict::Refused(Refusal::Closed, coupon) => Self::Closed(coupon),
        }
    }
}

/// A claim that asks the gate for a seat, and goes on to the writer with it.
#[derive(Debug)]
pub struct Asking {
    pub(super) claim: Claim,
    pub(super) writer: Writer<Claim>,
}

impl Candidate for Asking {
    fn campaign(&self) -> CampaignId {
        self.claim.campaign
    }

    fn user(&self) -> &UserId {
        &self.claim.user
    }

    /// The claim goes to the writer from here, not back to its caller first: that saves a wake-up per claim.
    fn told(self, answer: Result<Admission, GateError>) -> Option<Seat> {
        let Self { mut claim, writer } = self;
        let fate = match answer {
            Ok(Admission::Admitted(seat)) => {
                claim.seat = Some(seat);
                let Err(mut refused) = writer.write(claim) else { return None };
                let back_on_sale = refused.seat.take();
                refused.answer(Err(ClaimError::Overloaded));
                return back_on_sale;
            }
            Ok(Admission::Denied(denial)) => Ok(Fate::Denied(denial)),
            Err(error) => Err(error.into()),
        };
        claim.answer(fate);
        None
    }
}

/// The verdict of Postgres on a claim that has no seat.
pub(super) async fn without_gate(
    writer: &Writer<Claim>,
    campaign: CampaignId,
    user: UserId,
    cause: Cause,
    keyed: Option<Keyed>,
) -> Result<Verdict, ClaimError> {
    let (claim, fate) = Claim::new(campaign, user, cause, keyed);
    if writer.write(claim).is_err() {
        return Err(ClaimError::Overloaded);
    }
    match fate.await.unwrap_or(Err(ClaimError::Unknown))? {
        Fate::Judged(verdict) => Ok(verdict),
        Fate::Denied(_) => Err(ClaimError::Unknown), // the gate was not asked
    }
}
