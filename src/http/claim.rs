//! A user claims a coupon.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use super::extract::{Caused, Id, Json};
use super::problem::Problem;
use super::{Api, json};
use crate::ids::{FieldProblem, UserId};
use crate::issue::Outcome;

/// The body of a claim.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimBody {
    user_id: String,
}

impl ClaimBody {
    /// # Errors
    /// When no user is called so.
    pub fn parse(self) -> Result<UserId, FieldProblem> {
        UserId::parse(self.user_id).map_err(|error| FieldProblem::new("user_id", error.to_string()))
    }
}

/// `POST /v1/campaigns/{id}/coupons`
pub(super) async fn claim(
    State(api): State<Arc<Api>>,
    Caused(cause): Caused,
    id: Id,
    Json(body): Json<ClaimBody>,
) -> Result<Response, Problem> {
    let user = body.parse().map_err(|problem| Problem::Invalid(vec![problem]))?;
    match api.issuer.issue(id.into(), user, cause).await? {
        Outcome::Issued(coupon) => {
            let location = format!("/v1/coupons/{}", coupon.id);
            Ok((StatusCode::CREATED, [(header::LOCATION, location)], json(&coupon)).into_response())
        }
        Outcome::AlreadyIssued(coupon) => Err(Problem::AlreadyIssued(Box::new(coupon))),
        Outcome::LimitReached(coupon) => Err(Problem::UserLimitReached(Box::new(coupon))),
        Outcome::SoldOut => Err(Problem::SoldOut),
        Outcome::NotOpen { opens_at } => Err(Problem::NotOpen { opens_at }),
        Outcome::Closed => Err(Problem::Closed),
        Outcome::NoSuchCampaign => Err(Problem::NotFound("There is no such campaign.")),
    }
}
