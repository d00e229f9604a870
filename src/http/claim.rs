//! A user claims a coupon.

use std::sync::Arc;

use axum::extract::{FromRequest, Request, State};

use super::answer::{Answer, recorded_created};
use super::api::Api;
use super::caller::Caller;
use super::extract::{Id, JsonBody, NoQuery};
use super::problem::Problem;
use crate::cause::Cause;
use crate::coupon::Coupon;
use crate::ids::{CampaignId, FieldProblem, UserId};
use crate::issue::{ClaimError, IssueError, Outcome};
use crate::json::{Object, Rejected};

/// What a retry does when the outcome of a claim is unknown.
const CLAIM_UNKNOWN: &str = "The outcome is unknown: a retry with the same Idempotency-Key returns the coupon, or the reason there is none. Without \
     a key it may get the user another coupon, if the campaign gives each user several.";

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

/// Whether an end user may send this body of a claim: it names the user, or nobody.
///
/// # Errors
/// Names every field that is wrong.
fn is_own(body: &[u8], user: &UserId) -> Result<bool, Rejected> {
    let mut object = Object::read(body, ["user_id"])?;
    let named = object.optional("user_id", user.as_str().to_owned());
    let problems = object.into_problems();
    if problems.is_empty() {
        return Ok(named.is_some_and(|named| named == user.as_str()));
    }
    Err(Rejected { malformed: true, problems })
}

/// The user for whom a coupon is claimed.
#[derive(Debug)]
pub(super) struct Claimant {
    user: UserId,
    cause: Cause,
    /// To them a draft does not exist.
    is_end_user: bool,
}

impl<S: Send + Sync> FromRequest<S> for Claimant {
    type Rejection = Problem;

    /// An end user claims for themselves: a body that names another user is refused before anything is asked about the
    /// campaign. All other callers name the user.
    async fn from_request(mut request: Request, state: &S) -> Result<Self, Problem> {
        let caller = Caller::take(request.extensions_mut())?;
        let JsonBody(body) = JsonBody::from_request(request, state).await?;
        let is_end_user = caller.end_user().is_some();
        let user = match caller.end_user() {
            Some(user) if is_own(&body, user)? => user.clone(),
            Some(_) => return Err(Problem::forbidden()),
            None => claimant(&body)?,
        };
        Ok(Self { user, cause: caller.cause, is_end_user })
    }
}

/// `POST /v1/campaigns/{id}/coupons`
pub(super) async fn claim(
    State(api): State<Arc<Api>>,
    Id(campaign): Id<CampaignId>,
    _: NoQuery,
    Claimant { user, cause, is_end_user }: Claimant,
) -> Result<Answer<Coupon>, Problem> {
    // Before anything else: every other answer would tell that there is a draft.
    if is_end_user && !api.campaigns.is_published(campaign).await.map_err(IssueError::from)? {
        return Err(Problem::no_campaign());
    }
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
