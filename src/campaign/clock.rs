//! The clock: opens and closes campaigns whose time has come, by the clock of the database. Every process may run
//! one. Each campaign is changed by itself: a row or a shard that is locked holds up only itself.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use outbox_relay::Shard;
use outbox_relay::in_time::InTime as _;
use outbox_relay::sqlstate::is_away;
use outbox_relay::zoo;
use sqlx::Connection as _;
use tokio::time::{MissedTickBehavior, interval};

use super::error::ChangeError;
use super::record::{self, Becomes};
use super::store::{self, Snapshot};
use super::sweep;
use crate::ids::CampaignId;
use crate::pool::Pool;
use crate::storage::StorageError;
use crate::trouble::Troubles;

/// From one look to the next. A campaign opens and closes at most this much late.
const INTERVAL: Duration = Duration::from_millis(500);
/// For the lock of a shard. The writers of all processes take turns with it, for some milliseconds each.
const LOCK_TIMEOUT: &str = "500ms";
/// Shards whose campaigns are changed at the same time, at most: half the connections of the pool.
const SHARDS_AT_ONCE: usize = 4;
/// Campaigns of one round, at most. The next round goes on behind them.
const ROUND_CAMPAIGNS: i64 = 1_000;

/// Why a campaign was not changed when its time had come. The next rounds retry.
#[derive(Debug, thiserror::Error)]
enum ClockError {
    #[error("another transaction has locked the campaign's row")]
    RowLocked,
    #[error("change the campaign")]
    Change(#[from] ChangeError),
}

impl From<sqlx::Error> for ClockError {
    fn from(error: sqlx::Error) -> Self {
        Self::Change(error.into())
    }
}

/// Changes campaigns until it is dropped.
pub async fn run(pool: Pool, mut troubles: Troubles) -> Infallible {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut place, mut failed) = (Place::default(), false);
    loop {
        ticks.tick().await;
        let result = round(&pool, &mut place, &mut troubles).await;
        if let Err(error) = &result {
            let what = "campaigns that are due cannot be opened and closed";
            let cause = error as &dyn std::error::Error;
            if failed || is_away(error) {
                tracing::debug!(error = cause, "{what}"); // of an outage the writers tell
            } else {
                tracing::warn!(error = cause, "{what}");
                failed = true;
            }
        } else {
            failed = false;
        }
    }
}

/// Where the next round begins.
#[derive(Debug, Default)]
struct Place {
    /// Behind this campaign, if the last round had more than it could take.
    after: Option<CampaignId>,
    /// Rounds so far: each begins with another campaign of a shard, so that one that fails is not always the first.
    rounds: usize,
}

async fn round(pool: &Pool, place: &mut Place, troubles: &mut Troubles) -> Result<(), sqlx::Error> {
    sweep::date_closed(pool, ROUND_CAMPAIGNS).await?;
    let due = sweep::due(pool, place.after, ROUND_CAMPAIGNS).await?;
    let is_full = i64::try_from(due.len()).is_ok_and(|count| count >= ROUND_CAMPAIGNS);
    place.after = due.last().map(|(id, _)| *id).filter(|_| is_full);
    place.rounds = place.rounds.wrapping_add(1);
    let mut shards: BTreeMap<Shard, Vec<CampaignId>> = BTreeMap::new();
    for (id, shard) in due {
        shards.entry(shard).or_default().push(id);
    }
    let changes = stream::iter(shards.into_values().map(|mut campaigns| {
        let first = if zoo::has("one-failure-ends-the-round") { 0 } else { place.rounds % campaigns.len() };
        campaigns.rotate_left(first);
        change_each(pool, campaigns)
    }));
    let failures: Vec<_> = changes.buffer_unordered(SHARDS_AT_ONCE).collect().await;
    for (campaign, error) in failures.into_iter().flatten() {
        troubles.report(campaign, &error);
    }
    Ok(())
}

/// Changes campaigns of one shard, one after the other: each takes the shard's lock. Ends when Postgres cannot serve:
/// the lock is held, or Postgres is away. Returns those that were not changed.
async fn change_each(pool: &Pool, campaigns: Vec<CampaignId>) -> Vec<(CampaignId, ClockError)> {
    let mut failures = Vec::new();
    for id in campaigns {
        let Err(error) = bring_up_to_date(pool, id).await else { continue };
        let unavailable =
            matches!(error, ClockError::Change(ChangeError::Storage(StorageError::Unavailable(_))));
        failures.push((id, error));
        if unavailable || zoo::has("one-failure-ends-the-round") {
            break;
        }
    }
    failures
}

async fn bring_up_to_date(pool: &Pool, id: CampaignId) -> Result<(), ClockError> {
    let mut lease = pool.acquire().await?;
    let mut transaction = lease.begin().in_time().await?;
    sqlx::query("SELECT set_config('lock_timeout', $1, true)")
        .bind(LOCK_TIMEOUT)
        .execute(&mut *transaction)
        .in_time()
        .await?;
    let locked = store::lock_if_free(&mut transaction, id).await?;
    if let Some(Snapshot { campaign, taken_at }) = &locked {
        let due = campaign.state.due(campaign.opens_at, campaign.closes_at, *taken_at);
        if due != campaign.state {
            let saved = record::save(&mut transaction, campaign, Becomes::Of(due), None).await?;
            saved.publish(&mut transaction).await?;
        }
    }
    transaction.commit().in_time().await?;
    lease.rest();
    locked.map(drop).ok_or(ClockError::RowLocked)
}
