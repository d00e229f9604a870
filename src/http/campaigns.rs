//! Campaigns.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;

use super::answer::{Answer, Listed};
use super::api::Api;
use super::caller::Caller;
use super::extract::{Id, Json, ListQuery};
use super::problem::{NOTHING_CHANGED, Problem};
use crate::campaign::draft::DraftBody;
use crate::campaign::store::Standing;
use crate::campaign::{self, change::ChangeError};
use crate::ids::{CampaignId, FieldProblem};
use crate::page::Page;

/// What a retry does when Postgres failed a request to create a campaign.
const CREATE_UNKNOWN: &str = "The outcome is unknown: look for the campaign in the list before a retry, \
                              which may create a second one.";
/// What a retry does when Postgres failed a request to change a campaign.
const CHANGE_UNKNOWN: &str =
    "Retry: the outcome is unknown; if the change has taken effect, a retry changes nothing more.";

type OneCampaign = Result<Answer<Standing>, Problem>;

/// `POST /v1/campaigns`
pub(super) async fn create(State(api): State<Arc<Api>>, Json(body): Json<DraftBody>) -> OneCampaign {
    let now = api.campaigns.now().await.map_err(|error| Problem::storage(error, CREATE_UNKNOWN))?;
    let draft = body.parse(now).map_err(|errors| Problem::invalid(&errors))?;
    let created = api.campaigns.create(&draft).await;
    let body = created.map_err(|error| Problem::storage(error, CREATE_UNKNOWN))?;
    Ok(Answer::Created { location: format!("/v1/campaigns/{}", body.campaign.id), body })
}

/// `GET /v1/campaigns`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    uri: Uri,
) -> Result<Answer<Listed<Standing, CampaignId>>, Problem> {
    let query = ListQuery::parse(&uri, "state").map_err(|error| Problem::invalid(&[error]))?;
    let ListQuery { page, filter } = query;
    let states = filter.map(|states| states.split(',').map(str::parse::<campaign::State>).collect());
    let states: Option<Vec<_>> = states
        .transpose()
        .map_err(|error| Problem::invalid(&[FieldProblem::new("state", error.to_string())]))?;
    let items = api.campaigns.page(page.before.map(CampaignId), states.as_deref(), page.limit.get()).await;
    let items = items.map_err(|error| Problem::storage(error, NOTHING_CHANGED))?;
    let page = Page::new(items, page.limit, |standing| standing.campaign.id);
    Ok(Answer::Ok(Listed { name: "campaigns", page }))
}

/// `GET /v1/campaigns/{id}`. To an end user a draft does not exist.
pub(super) async fn show(State(api): State<Arc<Api>>, caller: Caller, Id(id): Id<CampaignId>) -> OneCampaign {
    let found = api.campaigns.show(id).await.map_err(|error| Problem::storage(error, NOTHING_CHANGED))?;
    let sees_drafts = caller.end_user().is_none();
    let seen = found.filter(|standing| sees_drafts || standing.campaign.state != campaign::State::Draft);
    seen.map(Answer::Ok).ok_or_else(Problem::no_campaign)
}

/// `POST /v1/campaigns/{id}/open`
pub(super) async fn open(State(api): State<Arc<Api>>, Id(id): Id<CampaignId>) -> OneCampaign {
    Ok(Answer::Ok(api.campaigns.open(id).await?))
}

/// `POST /v1/campaigns/{id}/close`
pub(super) async fn close(State(api): State<Arc<Api>>, Id(id): Id<CampaignId>) -> OneCampaign {
    Ok(Answer::Ok(api.campaigns.close(id).await?))
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Unknown => Self::no_campaign(),
            ChangeError::NotAllowed { .. } | ChangeError::Over { .. } => {
                Self::not_allowed_in_state(&error.to_string())
            }
            ChangeError::Storage(error) => Self::storage(error, CHANGE_UNKNOWN),
            ChangeError::Refused(_) => Self::internal("a change of a campaign failed", error),
        }
    }
}
