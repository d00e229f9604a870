//! A user claims a coupon.

use std::sync::Arc;

use axum::extract::{FromRequest, Request, State};
use serde::{Deserialize, Deserializer};

use super::answer::Answer;
use super::api::Api;
use super::caller::Caller;
use super::extract::{Id, Json};
use super::problem::Problem;
use crate::cause::Cause;
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

/// The body of a claim by an end user, who need not say who they are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct OwnClaimBody {
    #[serde(default, deserialize_with = "given")]
    user_id: Option<String>,
}

/// The user for whom a coupon is claimed.
#[derive(Debug)]
pub(super) struct Claimant {
    user: UserId,
    cause: Cause,
}

impl<S: Send + Sync> FromRequest<S> for Claimant {
    type Rejection = Problem;

    /// An end user claims for themselves: a body that names another user is refused before anything is asked about the
    /// campaign. All other callers name the user.
    async fn from_request(mut request: Request, state: &S) -> Result<Self, Problem> {
        let caller = Caller::take(request.extensions_mut())?;
        let user = if let Some(user) = caller.end_user().cloned() {
            let Json(OwnClaimBody { user_id }) = Json::from_request(request, state).await?;
            if user_id.is_some_and(|named| named != user.as_str()) {
                return Err(Problem::forbidden());
            }
            user
        } else {
            let Json(body) = Json::<ClaimBody>::from_request(request, state).await?;
            body.parse().map_err(|error| Problem::invalid(&[error]))?
        };
        Ok(Self { user, cause: caller.cause })
    }
}

/// `POST /v1/campaigns/{id}/coupons`
pub(super) async fn claim(
    State(api): State<Arc<Api>>,
    Id(campaign): Id<CampaignId>,
    Claimant { user, cause }: Claimant,
) -> Result<Answer<Coupon>, Problem> {
    match api.issuer.issue(campaign, user, cause).await? {
        Outcome::Issued(body) => Ok(Answer::Created { location: format!("/v1/coupons/{}", body.id), body }),
        Outcome::AlreadyIssued(coupon) => Err(Problem::already_issued(&coupon)),
        Outcome::LimitReached(coupon) => Err(Problem::user_limit_reached(&coupon)),
        Outcome::SoldOut(coupon) => Err(Problem::sold_out().with_coupon(coupon.as_ref())),
        Outcome::NotOpen { opens_at, coupon } => {
            Err(Problem::not_open(opens_at).with_coupon(coupon.as_ref()))
        }
        Outcome::Closed(coupon) => Err(Problem::closed().with_coupon(coupon.as_ref())),
        Outcome::NoSuchCampaign => Err(Problem::no_campaign()),
    }
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
            IssueError::Storage(error) => Self::storage(error, CLAIM_UNKNOWN),
        }
    }
}

/// A text that may be missing, but not null.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}
