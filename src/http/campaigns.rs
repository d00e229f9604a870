//! Campaigns.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::extract::{Authorized, Id, Json, Paged};
use super::problem::Problem;
use super::{Api, json};
use crate::campaign::draft::DraftBody;
use crate::ids::CampaignId;

/// `POST /v1/campaigns`
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    _: Authorized,
    Json(body): Json<DraftBody>,
) -> Result<Response, Problem> {
    let draft = body.parse().map_err(Problem::Invalid)?;
    let standing = api.campaigns.create(&draft).await?;
    let location = format!("/v1/campaigns/{}", standing.campaign.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], json(&standing)).into_response())
}

/// `GET /v1/campaigns`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    _: Authorized,
    Paged(page): Paged,
) -> Result<Response, Problem> {
    let campaigns = api.campaigns.page(page.before.map(CampaignId), page.limit).await?;
    let full = campaigns.len() as i64 == page.limit;
    let next = campaigns.last().filter(|_| full).map(|standing| standing.campaign.id);
    Ok(json(&serde_json::json!({ "campaigns": campaigns, "next": next })))
}

/// `GET /v1/campaigns/{id}`
pub(super) async fn show(State(api): State<Arc<Api>>, _: Authorized, id: Id) -> Result<Response, Problem> {
    let standing = api.campaigns.show(id.into()).await?;
    standing.map(|standing| json(&standing)).ok_or(Problem::NotFound("There is no such campaign."))
}

/// `POST /v1/campaigns/{id}/open`
pub(super) async fn open(State(api): State<Arc<Api>>, _: Authorized, id: Id) -> Result<Response, Problem> {
    Ok(json(&api.campaigns.open(id.into()).await?))
}

/// `POST /v1/campaigns/{id}/close`
pub(super) async fn close(State(api): State<Arc<Api>>, _: Authorized, id: Id) -> Result<Response, Problem> {
    Ok(json(&api.campaigns.close(id.into()).await?))
}
