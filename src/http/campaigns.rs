//! Campaigns.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::extract::{Authorized, Id, Json, Paged};
use super::problem::Problem;
use super::{Api, json};
use crate::campaign::draft::DraftBody;
use crate::campaign::{Campaign, store};
use crate::ids::CampaignId;

/// `POST /v1/campaigns`
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    _: Authorized,
    Json(body): Json<DraftBody>,
) -> Result<Response, Problem> {
    let draft = body.parse().map_err(Problem::Invalid)?;
    let campaign = store::create(&api.pool, &draft, api.shards).await?;
    let location = format!("/v1/campaigns/{}", campaign.id);
    let shown = show_one(&api, campaign.id).await?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], shown).into_response())
}

/// `GET /v1/campaigns`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    _: Authorized,
    Paged(page): Paged,
) -> Result<Response, Problem> {
    let campaigns = store::page(&api.pool, page.before, page.limit).await?;
    let full = campaigns.len() as i64 == page.limit;
    let next = campaigns.last().filter(|_| full).map(|standing| standing.campaign.id);
    Ok(json(&json!({ "campaigns": campaigns, "next": next })))
}

/// `GET /v1/campaigns/{id}`
pub(super) async fn show(State(api): State<Arc<Api>>, _: Authorized, id: Id) -> Result<Response, Problem> {
    show_one(&api, id.into()).await
}

/// `POST /v1/campaigns/{id}/open`
pub(super) async fn open(State(api): State<Arc<Api>>, _: Authorized, id: Id) -> Result<Response, Problem> {
    let campaign = store::open(&api.pool, id.into()).await?;
    changed(&api, &campaign).await
}

/// `POST /v1/campaigns/{id}/close`
pub(super) async fn close(State(api): State<Arc<Api>>, _: Authorized, id: Id) -> Result<Response, Problem> {
    let campaign = store::close(&api.pool, id.into()).await?;
    changed(&api, &campaign).await
}

async fn changed(api: &Api, campaign: &Campaign) -> Result<Response, Problem> {
    api.issuer.campaign_changed(campaign).await;
    show_one(api, campaign.id).await
}

async fn show_one(api: &Api, id: CampaignId) -> Result<Response, Problem> {
    let standing = store::standing(&api.pool, id).await?;
    standing.map(|standing| json(&standing)).ok_or(Problem::NotFound("There is no such campaign."))
}
