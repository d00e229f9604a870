//! Campaigns.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use serde_json::Value;

use super::answer::{Answer, Listed, recorded_created, recorded_ok};
use super::api::Api;
use super::caller::Caller;
use super::extract::{Id, IfMatch, JsonBody, ListQuery, NoBody, NoQuery, page_of};
use super::problem::{NOTHING_CHANGED, Problem};
use crate::campaign::change::{ChangeError, Request};
use crate::campaign::changes::{Change, ChangeCursor};
use crate::campaign::draft::DraftBody;
use crate::campaign::edit::{Edit, EditError};
use crate::campaign::store::Standing;
use crate::campaign::synced::Synced;
use crate::campaign::{self, StateError};
use crate::cause::Cause;
use crate::idempotency::{KeyError, Keyed, Once};
use crate::ids::CampaignId;

/// What a retry does when Postgres failed a request to create a campaign.
const CREATE_UNKNOWN: &str = "The outcome is unknown. A retry with the same Idempotency-Key is safe. Without one, look for the \
                              campaign in the list before a retry, which may create a second one.";
/// What a retry does when Postgres failed a request to change a campaign.
const CHANGE_UNKNOWN: &str =
    "Retry: the outcome is unknown; if the change has taken effect, a retry changes nothing more.";

type OneCampaign = Result<Answer<Standing>, Problem>;

/// `POST /v1/campaigns`
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Caller { cause, .. }: Caller,
    _: NoQuery,
    JsonBody(bytes): JsonBody,
) -> OneCampaign {
    let body = DraftBody::read(&bytes)?;
    let now = api.campaigns.now().await.map_err(|error| Problem::storage(error, CREATE_UNKNOWN))?;
    let request = Request {
        keyed: Keyed::of(&cause, "createCampaign", "", &canonical(&bytes)),
        answer: |created| recorded_created(location(created), created),
        cause,
    };
    let draft = match body.parse(now) {
        Ok(draft) => draft,
        Err(rejected) => match api.campaigns.earlier(&request).await? {
            Some(recorded) => return Ok(Answer::Replayed(recorded)), // its times have passed since
            None => return Err(rejected.into()),
        },
    };
    match api.campaigns.create(&draft, &request).await {
        Ok(Once::First(body)) => Ok(Answer::Created { location: location(&body), body }),
        Ok(replayed) => Ok(replayed.into()),
        Err(ChangeError::Storage(error)) => Err(Problem::storage(error, CREATE_UNKNOWN)),
        Err(error) => Err(error.into()),
    }
}

/// `GET /v1/campaigns`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    uri: Uri,
) -> Result<Answer<Listed<Standing, CampaignId>>, Problem> {
    let query = ListQuery::<States>::parse(&uri, "state");
    let ListQuery { page, filter } = query.map_err(|errors| Problem::invalid(&errors))?;
    let states = filter.as_ref().map(|States(states)| &**states);
    let page = api.campaigns.page(page.before.map(CampaignId), states, page.limit).await;
    let page = page.map_err(|error| Problem::storage(error, NOTHING_CHANGED))?;
    Ok(Answer::Ok(Listed { name: "campaigns", page }))
}

/// States, separated by commas.
#[derive(Debug)]
struct States(Vec<campaign::State>);

impl FromStr for States {
    type Err = StateError;

    fn from_str(words: &str) -> Result<Self, StateError> {
        words.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// `GET /v1/campaigns/{id}`. To an end user a draft does not exist.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id<CampaignId>,
    _: NoQuery,
) -> OneCampaign {
    let found = api.campaigns.show(id).await.map_err(|error| Problem::storage(error, NOTHING_CHANGED))?;
    let sees_drafts = caller.end_user().is_none();
    let seen = found.filter(|standing| sees_drafts || standing.campaign.state != campaign::State::Draft);
    seen.map(Answer::Ok).ok_or_else(Problem::no_campaign)
}

/// `PATCH /v1/campaigns/{id}`
pub(super) async fn edit(
    State(api): State<Arc<Api>>,
    Caller { cause, .. }: Caller,
    Id(id): Id<CampaignId>,
    _: NoQuery,
    IfMatch(expected, JsonBody(bytes)): IfMatch<JsonBody>,
) -> OneCampaign {
    let edit = Edit::read(&bytes)?;
    let keyed = Keyed::of(&cause, "editCampaign", &id.to_string(), &canonical(&bytes));
    let request = Request { keyed, answer: recorded_ok, cause };
    Ok(api.campaigns.edit(id, (&edit, &expected), &request).await?.into())
}

/// `GET /v1/campaigns/{id}/changes`
pub(super) async fn changes(
    State(api): State<Arc<Api>>,
    Id(id): Id<CampaignId>,
    uri: Uri,
) -> Result<Answer<Listed<Change, ChangeCursor>>, Problem> {
    let page = page_of(&uri).map_err(|errors| Problem::invalid(&errors))?;
    let page = api.campaigns.changes(id, page).await;
    let page =
        page.map_err(|error| Problem::storage(error, NOTHING_CHANGED))?.ok_or_else(Problem::no_campaign)?;
    Ok(Answer::Ok(Listed { name: "changes", page }))
}

/// `POST /v1/campaigns/{id}/open`
pub(super) async fn open(
    State(api): State<Arc<Api>>,
    Caller { cause, .. }: Caller,
    Id(id): Id<CampaignId>,
    _: NoQuery,
    _: NoBody,
) -> OneCampaign {
    Ok(api.campaigns.open(id, &change(cause, "openCampaign", id)).await?.into())
}

/// `POST /v1/campaigns/{id}/pause`
pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    Caller { cause, .. }: Caller,
    Id(id): Id<CampaignId>,
    _: NoQuery,
    _: NoBody,
) -> OneCampaign {
    Ok(api.campaigns.pause(id, &change(cause, "pauseCampaign", id)).await?.into())
}

/// `POST /v1/campaigns/{id}/close`
pub(super) async fn close(
    State(api): State<Arc<Api>>,
    Caller { cause, .. }: Caller,
    Id(id): Id<CampaignId>,
    _: NoQuery,
    _: NoBody,
) -> OneCampaign {
    Ok(api.campaigns.close(id, &change(cause, "closeCampaign", id)).await?.into())
}

/// `POST /v1/campaigns/{id}/sync`
pub(super) async fn sync(
    State(api): State<Arc<Api>>,
    Caller { cause, .. }: Caller,
    Id(id): Id<CampaignId>,
    _: NoQuery,
    _: NoBody,
) -> Result<Answer<Synced>, Problem> {
    let keyed = Keyed::of(&cause, "syncCampaign", &id.to_string(), &[]);
    let request = Request { keyed, answer: recorded_ok, cause };
    Ok(api.campaigns.sync(id, &request).await?.into())
}

/// A request without a body to change a campaign.
fn change(cause: Cause, operation: &str, id: CampaignId) -> Request {
    Request { keyed: Keyed::of(&cause, operation, &id.to_string(), &[]), answer: recorded_ok, cause }
}

fn location(created: &Standing) -> String {
    format!("/v1/campaigns/{}", created.campaign.id)
}

/// A JSON text without what makes no difference: white space, and the order of names.
pub(super) fn canonical(json: &[u8]) -> Vec<u8> {
    serde_json::from_slice(json).map_or_else(|_| json.to_vec(), |value: Value| value.to_string().into_bytes())
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Unknown => Self::no_campaign(),
            ChangeError::NotAllowed { .. } | ChangeError::Over { .. } => {
                Self::not_allowed_in_state(&error.to_string())
            }
            ChangeError::Gate => Self::gate_unavailable(),
            ChangeError::Stale { version } => Self::version_mismatch(version),
            ChangeError::Edit(EditError::Invalid(rejected)) => rejected.into(),
            ChangeError::Edit(EditError::NotEditable { state, fields }) => {
                Self::not_editable(&fields, state.as_str())
            }
            ChangeError::Key(KeyError::InUse) => Self::key_in_use(),
            ChangeError::Key(KeyError::Reused) => Self::key_reused(),
            ChangeError::Key(KeyError::Storage(error)) | ChangeError::Storage(error) => {
                Self::storage(error, CHANGE_UNKNOWN)
            }
            ChangeError::Refused(_) => Self::internal("a change of a campaign failed", error),
        }
    }
}
