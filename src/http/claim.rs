//! A user claims a coupon.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use super::extract::{Authorized, Id, Json, Traceparent};
use super::problem::Problem;
use super::{Api, json};
use crate::campaign::OutsideId;
use crate::campaign::draft::FieldProblem;
use crate::issue::Outcome;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClaimBody {
    user_id: String,
}

/// `POST /v1/campaigns/{id}/coupons`
pub(super) async fn claim(
    State(api): State<Arc<Api>>,
    _: Authorized,
    id: Id,
    Traceparent(traceparent): Traceparent,
    Json(body): Json<ClaimBody>,
) -> Result<Response, Problem> {
    let user = OutsideId::parse(body.user_id)
        .map_err(|error| Problem::Invalid(vec![FieldProblem::new("user_id", error.to_string())]))?;
    match api.issuer.issue(id.into(), user, traceparent).await? {
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
