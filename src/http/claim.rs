//! A user claims a coupon.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;

use super::answer::{Answer, recorded_created};
use super::api::Api;
use super::caller::Caller;
use super::extract::{Id, Json};
use super::problem::Problem;
use crate::coupon::Coupon;
use crate::ids::{CampaignId, FieldProblem, UserId};
use crate::issue::{ClaimError, IssueError, Outcome};

/// What a retry does when the outcome of a claim is unknown.
const CLAIM_UNKNOWN: &str =
    "Retry: the outcome is unknown; a retry returns the coupon or the reason there is none.";

/// The body of a claim.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct ClaimBody {
    user_id: String,
}

impl ClaimBody {
    /// # Errors
    /// When this cannot be the name of a user.
    pub fn parse(self) -> Result<UserId, FieldProblem> {
        UserId::parse(self.user_id).map_err(|error| FieldProblem::new("user_id", error.to_string()))
    }
}

/// `POST /v1/campaigns/{id}/coupons`
pub(super) async fn claim(
    State(api): State<Arc<Api>>,
    Caller { cause, .. }: Caller,
    Id(campaign): Id<CampaignId>,
    Json(body, _): Json<ClaimBody>,
) -> Result<Answer<Coupon>, Problem> {
    let user = body.parse().map_err(|error| Problem::invalid(&[error]))?;
    match api.issuer.issue(campaign, user, cause).await? {
        Outcome::Issued(body) => Ok(Answer::Created { location: location(&body), body }),
        Outcome::AlreadyIssued(coupon) => Err(Problem::already_issued(&coupon)),
        Outcome::LimitReached(coupon) => Err(Problem::user_limit_reached(&coupon)),
        Outcome::SoldOut(coupon) => Err(Problem::sold_out().with_coupon(coupon.as_ref())),
        Outcome::NotOpen { opens_at, coupon } => {
            Err(Problem::not_open(opens_at).with_coupon(coupon.as_ref()))
        }
        Outcome::Closed(coupon) => Err(Problem::closed().with_coupon(coupon.as_ref())),
        Outcome::NoSuchCampaign => Err(Problem::no_campaign()),
        Outcome::Replayed(coupon) => {
            let answer = recorded_created(location(&coupon), &coupon);
            answer.map(Answer::Replayed).map_err(|error| Problem::internal("write a coupon as JSON", error))
        }
        Outcome::KeyRequired => Err(Problem::key_required()),
        Outcome::KeyReused => Err(Problem::key_reused()),
    }
}

fn location(coupon: &Coupon) -> String {
    format!("/v1/coupons/{}", coupon.id)
}

impl From<IssueError> for Problem {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Claim(error) => match error {
                ClaimError::GateUnreachable | ClaimError::GateUnloaded => Self::gate_unavailable(),
                ClaimError::Overloaded => Self::overloaded(),
                ClaimError::NotWritten | ClaimError::Unknown => Self::storage_unavailable(CLAIM_UNKNOWN),
            }
            .refused("a claim is refused", error),
            IssueError::KeyInUse => Self::key_in_use(),
            IssueError::Storage(error) => Self::storage(error, CLAIM_UNKNOWN),
        }
    }
}
