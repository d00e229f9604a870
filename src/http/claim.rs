//! A user claims a coupon.

use std::sync::Arc;

use axum::extract::State;

use super::answer::{Answer, recorded_created};
use super::api::Api;
use super::caller::Caller;
use super::extract::{Id, JsonBody, NoQuery};
use super::problem::Problem;
use crate::coupon::Coupon;
use crate::ids::{CampaignId, FieldProblem, UserId};
use crate::issue::{ClaimError, IssueError, Outcome};
use crate::json::{Object, Rejected};

/// What a retry does when the outcome of a claim is unknown.
const CLAIM_UNKNOWN: &str =
    "Retry: the outcome is unknown; a retry returns the coupon or the reason there is none.";

/// The user whom the body of a claim names.
///
/// # Errors
/// Names every field that is wrong.
pub fn claimant(body: &[u8]) -> Result<UserId, Rejected> {
    let mut object = Object::read(body, ["user_id"])?;
    let user = object.required::<String>("user_id").map(UserId::parse);
    let mut problems = object.into_problems();
    let malformed = !problems.is_empty();
    match user {
        Some(Ok(user)) if !malformed => return Ok(user),
        Some(Err(error)) => problems.push(FieldProblem::new("user_id", error.to_string())),
        Some(Ok(_)) | None => {}
    }
    Err(Rejected { malformed, problems })
}

/// `POST /v1/campaigns/{id}/coupons`
pub(super) async fn claim(
    State(api): State<Arc<Api>>,
    Caller { cause, .. }: Caller,
    Id(campaign): Id<CampaignId>,
    _: NoQuery,
    JsonBody(body): JsonBody,
) -> Result<Answer<Coupon>, Problem> {
    let user = claimant(&body)?;
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
