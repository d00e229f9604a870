//! To issue: the one use case that everything here exists for. The gate admits, Postgres decides,
//! and nobody is told yes before it is committed.

mod campaigns;
pub mod gate;
pub mod loader;
pub mod seats;
pub mod sweeper;
pub mod writer;

use std::sync::Arc;

use sqlx::PgPool;
use time::OffsetDateTime;

use self::campaigns::Campaigns;
use self::gate::{Gate, GateError};
use self::loader::Loader;
use self::seats::Admission;
use self::writer::{Claim, Verdict, WriteError, Writer};
use crate::campaign::{Campaign, CampaignId, UserId};
use crate::coupon::{self, Coupon};

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

/// Why it is not known what becomes of a claim. To ask again is safe, and finds out.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error("the gate is being loaded")]
    Loading,
    #[error(transparent)]
    Write(#[from] WriteError),
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

    /// Lets the gate know of a change that is committed.
    pub async fn campaign_changed(&self, campaign: &Campaign) {
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
        traceparent: Option<String>,
    ) -> Result<Outcome, IssueError> {
        let Some(campaign) = self.campaigns.get(campaign).await? else { return Ok(Outcome::NoSuchCampaign) };
        let seat = match self.gate.admit(campaign.id, user.clone()).await? {
            Admission::Admitted(seat) => Some(seat),
            Admission::Already => {
                match coupon::held(&self.pool, campaign.id, &user, campaign.per_user_limit).await? {
                    Some(coupon) => return Ok(held(&campaign, coupon)),
                    None => None, // not committed yet, or never: Postgres will say
                }
            }
            Admission::SoldOut => return Ok(Outcome::SoldOut),
            Admission::NotOpen => return Ok(Outcome::NotOpen { opens_at: campaign.opens_at }),
            Admission::Closed => return Ok(Outcome::Closed),
            Admission::Unloaded => {
                self.loader.want(campaign.id);
                return Err(IssueError::Loading);
            }
        };
        let claim = Claim { campaign: campaign.id, user, seat, traceparent };
        Ok(match self.write(&campaign, claim).await? {
            Verdict::Issued(coupon) => Outcome::Issued(coupon),
            Verdict::Held(coupon) => held(&campaign, coupon),
            Verdict::SoldOut => Outcome::SoldOut,
            Verdict::NotOpen => Outcome::NotOpen { opens_at: campaign.opens_at },
            Verdict::Closed => Outcome::Closed,
        })
    }

    async fn write(&self, campaign: &Campaign, claim: Claim) -> Result<Verdict, WriteError> {
        let writer = usize::try_from(campaign.shard.0).ok().and_then(|shard| self.writers.get(shard));
        let Some(writer) = writer else { return Err(WriteError::Failed) };
        let seat = claim.seat.clone();
        let result = writer.issue(claim).await;
        // The writer sees to the seats of all that it takes.
        if let (Err(WriteError::Overloaded), Some(seat)) = (&result, seat) {
            self.gate.release(campaign.id, vec![seat]);
        }
        result
    }
}

fn held(campaign: &Arc<Campaign>, coupon: Coupon) -> Outcome {
    if campaign.per_user_limit == 1 { Outcome::AlreadyIssued(coupon) } else { Outcome::LimitReached(coupon) }
}
