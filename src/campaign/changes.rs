//! What was changed of a campaign, by whom and by which request: the audit log. `record` writes it.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use sqlx::FromRow;
use sqlx::types::Json;
use time::OffsetDateTime;
use ulid::Ulid;

use crate::ids::CampaignId;
use crate::page::{Page, PageRequest};
use crate::pool::Pool;
use crate::storage::{prepared, read};

/// A change of a campaign.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Change {
    /// Grows from change to change.
    #[serde(skip)]
    id: i64,
    /// The version of the campaign after the change.
    pub version: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The caller: `administrator`, or `token:` and the id of an API token; `clock` if the time had come.
    pub actor: String,
    /// The request, if there was one.
    pub request_id: Option<String>,
    /// The fields that the change has changed, as they were; null if it has created the campaign.
    pub before: Option<Json<Map<String, Value>>>,
    /// The same fields, as they are since.
    pub after: Json<Map<String, Value>>,
}

/// A cursor in the list of changes: the id of a change, in the form that all cursors have.
#[derive(Clone, Copy, Debug)]
pub struct ChangeCursor(i64);

impl Serialize for ChangeCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Ulid(self.0.unsigned_abs().into()))
    }
}

/// The changes of a campaign, the newest first.
pub(super) async fn page(
    pool: &Pool,
    campaign: CampaignId,
    page: PageRequest,
) -> Result<Page<Change, ChangeCursor>, sqlx::Error> {
    let before = page.before.map(|cursor| i64::try_from(cursor.0).unwrap_or(i64::MAX));
    let changes = "SELECT id, version, at, actor, request_id, before, after FROM campaign_changes \
                   WHERE campaign_id = $1 AND ($2::bigint IS NULL OR id < $2) ORDER BY id DESC LIMIT $3";
    let query = || sqlx::query_as(changes).bind(campaign).bind(before).bind(page.limit.get());
    let changes = async || prepared!(pool, |connection| query().fetch_all(connection));
    let changes: Vec<Change> = read(pool, changes).await?;
    Ok(Page::new(changes, page.limit, |last| ChangeCursor(last.id)))
}
