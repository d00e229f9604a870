//! The transaction of a change of a campaign that somebody asks for: the change, and the idempotency key of the request.

use outbox_relay::in_time::InTime as _;
use outbox_relay::zoo;
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};
use time::OffsetDateTime;

use super::draft::Draft;
use super::edit::{Edit, Expected};
use super::error::ChangeError;
use super::record::{self, Becomes, Saved};
use super::store::{self, Snapshot, Standing};
use super::{Campaign, State};
use crate::cause::Cause;
use crate::failpoint;
use crate::idempotency::store as keys;
use crate::idempotency::{Keyed, Once, Recorded};
use crate::ids::CampaignId;
use crate::storage::of_postgres;

/// A request to create or change a campaign.
#[derive(Clone, Debug)]
pub struct Request<T = Standing> {
    /// The event about the change names it.
    pub cause: Cause,
    /// With its idempotency key, if it has one.
    pub keyed: Option<Keyed>,
    /// The answer that is kept with the key.
    pub answer: fn(&T) -> Result<Recorded, serde_json::Error>,
}

/// Creates a draft.
pub(super) async fn insert_on(
    connection: &mut PgConnection,
    id: CampaignId,
    draft: &Draft,
    shards: i16,
    request: &Request,
) -> Result<Once<Standing>, ChangeError> {
    let mut transaction = connection.begin().in_time().await?;
    let created = insert_in(&mut transaction, id, draft, shards, request).await;
    ended(transaction, created).await
}

async fn insert_in(
    transaction: &mut PgConnection,
    id: CampaignId,
    draft: &Draft,
    shards: i16,
    request: &Request,
) -> Result<Once<Standing>, ChangeError> {
    if let Some(answer) = earlier(transaction, request).await? {
        return Ok(Once::Replayed(answer));
    }
    let campaign = record::insert(transaction, id, draft, shards, &request.cause).await?;
    let standing =
        Standing { left: campaign.coupons_max(), issued: 0, returned: 0, issued_value: 0, campaign };
    recorded(transaction, request, standing).await
}

/// What somebody asks to be changed.
#[derive(Clone, Copy)]
pub(super) enum Asked<'a> {
    /// The state that a rule returns for the campaign at that moment.
    State(&'a (dyn Fn(&Campaign, OffsetDateTime) -> Result<State, ChangeError> + Sync)),
    /// Other fields, if the campaign has an expected version.
    Edit(&'a Edit, &'a Expected),
}

/// Changes a campaign, and appends the event in the same transaction.
pub(super) async fn change_on(
    connection: &mut PgConnection,
    id: CampaignId,
    asked: Asked<'_>,
    request: &Request,
) -> Result<Once<Standing>, ChangeError> {
    let mut transaction = connection.begin().in_time().await?;
    let changed = change_in(&mut transaction, id, asked, request).await;
    ended(transaction, changed).await
}

async fn change_in(
    transaction: &mut PgConnection,
    id: CampaignId,
    asked: Asked<'_>,
    request: &Request,
) -> Result<Once<Standing>, ChangeError> {
    if let Some(answer) = earlier(transaction, request).await? {
        return Ok(Once::Replayed(answer));
    }
    let locked = store::lock(transaction, id).await?.ok_or(ChangeError::Unknown)?;
    let saved = match asked {
        Asked::State(rule) => bring_into(transaction, locked, rule, &request.cause).await?,
        Asked::Edit(edit, expected) => apply(transaction, locked, edit, expected, &request.cause).await?,
    };
    let standing = store::standing(transaction, id).await?;
    let answer = recorded(transaction, request, standing).await?;
    saved.publish(transaction).await?;
    failpoint::reached("campaign.published").await;
    Ok(answer)
}

async fn bring_into(
    transaction: &mut PgConnection,
    Snapshot { campaign, taken_at }: Snapshot,
    rule: impl Fn(&Campaign, OffsetDateTime) -> Result<State, ChangeError>,
    cause: &Cause,
) -> Result<Saved, ChangeError> {
    let state = rule(&campaign, taken_at)?;
    if state == campaign.state {
        return Ok(Saved::unchanged(campaign));
    }
    let mut before = campaign;
    // Its time has come, and nobody has noticed yet: it opens first.
    if (before.state, state) == (State::Scheduled, State::Paused) {
        let opened = record::save(transaction, &before, Becomes::Of(State::Open), None).await?;
        before = opened.campaign.clone();
        opened.publish(transaction).await?;
    }
    record::save(transaction, &before, Becomes::Of(state), Some(cause)).await
}

async fn apply(
    transaction: &mut PgConnection,
    Snapshot { campaign, taken_at }: Snapshot,
    edit: &Edit,
    expected: &Expected,
    cause: &Cause,
) -> Result<Saved, ChangeError> {
    if !expected.is(campaign.version) {
        return Err(ChangeError::Stale { version: campaign.version });
    }
    // Locks the shard: no coupon is issued from here to the commit.
    if !zoo::has("edit-counts-without-the-lock") {
        outbox_relay::append(transaction, campaign.shard, &[]).await?;
    }
    let issued = store::standing(transaction, campaign.id).await?.issued;
    match edit.of(&campaign, issued, taken_at)? {
        Some(draft) => record::save(transaction, &campaign, Becomes::With(&draft, issued), Some(cause)).await,
        None => Ok(Saved::unchanged(campaign)),
    }
}

/// The answer that is kept with the key of a request.
pub(super) async fn earlier_on<T>(
    connection: &mut PgConnection,
    request: &Request<T>,
) -> Result<Option<Recorded>, ChangeError> {
    let mut transaction = connection.begin().in_time().await?;
    let earlier = earlier(&mut transaction, request).await;
    ended(transaction, earlier).await
}

/// Ends a transaction: also that of a request which is refused, so that its locks are free and its connection stays.
async fn ended<T>(
    transaction: Transaction<'_, Postgres>,
    result: Result<T, ChangeError>,
) -> Result<T, ChangeError> {
    match &result {
        Ok(_) => {
            transaction.commit().in_time().await?;
            failpoint::reached("campaign.committed").await;
        }
        Err(error) if of_postgres(error).is_none() => transaction.rollback().in_time().await?,
        Err(_) => {} // the connection is closed
    }
    result
}

async fn earlier<T>(
    transaction: &mut PgConnection,
    request: &Request<T>,
) -> Result<Option<Recorded>, ChangeError> {
    match &request.keyed {
        Some(keyed) => Ok(keys::begin(transaction, keyed).await?),
        None => Ok(None),
    }
}

/// Keeps the answer to a request whose effect is not in Postgres, unless an earlier one has been answered meanwhile.
pub(super) async fn record_on<T: Clone>(
    connection: &mut PgConnection,
    request: &Request<T>,
    answer: &T,
) -> Result<Once<T>, ChangeError> {
    let mut transaction = connection.begin().in_time().await?;
    let recorded = async {
        match earlier(&mut transaction, request).await? {
            Some(answer) => Ok(Once::Replayed(answer)),
            None => recorded(&mut transaction, request, answer.clone()).await,
        }
    };
    let recorded = recorded.await;
    ended(transaction, recorded).await
}

/// Keeps the answer with the key.
async fn recorded<T>(
    transaction: &mut PgConnection,
    request: &Request<T>,
    standing: T,
) -> Result<Once<T>, ChangeError> {
    if let Some(keyed) = &request.keyed {
        let answer = (request.answer)(&standing).map_err(|error| ChangeError::Refused(error.to_string()))?;
        keys::record(transaction, keyed, &answer).await?;
        failpoint::reached("campaign.recorded").await;
    }
    Ok(Once::First(standing))
}
