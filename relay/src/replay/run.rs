//! Runs: the rows of table `outbox_replays`.

use std::num::NonZeroU32;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{FromRow, PgConnection, Row as _};
use time::OffsetDateTime;

use super::error::ReplayError;
use super::run_id::RunId;
use super::run_state::RunState;
use super::selection::{Range, Selection, ShardPlan};
use crate::holders::of_holders;
use crate::in_time::InTime as _;
use crate::leadership;
use crate::outlet::Outlet;

/// Runs in a list, at most: the newest.
const LISTED_MAX: i64 = 100;
const REPLAY_LOCK: &str = "outbox_replay";
/// The application name of a connection that replays, before the name of the run. Both fit into the 63 bytes
/// that Postgres keeps.
const APPLICATION: &str = "outbox replay ";

/// A run to start.
#[derive(Clone, Debug)]
pub struct RunRequest {
    pub id: RunId,
    pub selection: Selection,
    /// Events a second, at most; without it, as fast as possible.
    pub rate: Option<NonZeroU32>,
    /// The number of shards.
    pub shards: i16,
}

/// A run, with everything that is needed to resume it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub id: RunId,
    pub selection: Selection,
    /// Events a second, at most; without it, as fast as possible.
    pub rate: Option<NonZeroU32>,
    pub(super) ranges: Vec<Range>,
    /// How many events were selected.
    pub events: i64,
    pub state: RunState,
    pub started_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
}

/// The columns of a [`Run`], by index.
macro_rules! runs {
    ($condition:literal) => {
        concat!(
            "SELECT run, selection::text, rate, firsts, lasts, events, state, started_at, ended_at \
             FROM outbox_replays ",
            $condition
        )
    };
}

impl FromRow<'_, PgRow> for Run {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let firsts: Vec<i64> = row.try_get(3)?;
        let lasts: Vec<i64> = row.try_get(4)?;
        let range = |(first, last)| Range { first, last, available_from: None };
        let rate: Option<i32> = row.try_get(2)?;
        let state: &str = row.try_get(6)?;
        Ok(Self {
            id: row.try_get::<&str, _>(0)?.parse().map_err(decode)?,
            selection: serde_json::from_str(row.try_get(1)?).map_err(decode)?,
            rate: rate.and_then(|rate| NonZeroU32::new(rate.unsigned_abs())),
            ranges: firsts.into_iter().zip(lasts).map(range).collect(),
            events: row.try_get(5)?,
            state: serde_json::from_value(state.into()).map_err(decode)?,
            started_at: row.try_get(7)?,
            ended_at: row.try_get(8)?,
        })
    }
}

fn decode(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

impl Run {
    /// The newest 100 runs, the newest first.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn list(connection: &mut PgConnection) -> Result<Vec<Self>, sqlx::Error> {
        const LIST: &str = runs!("ORDER BY started_at DESC, run LIMIT $1");
        sqlx::query_as(LIST).bind(LISTED_MAX).fetch_all(connection).in_time().await
    }

    pub(super) async fn find(connection: &mut PgConnection, id: &RunId) -> Result<Self, ReplayError> {
        const FIND: &str = runs!("WHERE run = $1");
        let found = sqlx::query_as(FIND).bind(id.as_str()).fetch_optional(connection).in_time().await?;
        found.ok_or_else(|| ReplayError::Unknown { run: id.clone() })
    }

    /// Records a new run.
    pub(super) async fn begin(
        connection: &mut PgConnection,
        request: &RunRequest,
        ranges: &[Range],
        plans: &[ShardPlan],
    ) -> Result<Self, ReplayError> {
        let RunRequest { id, selection, rate, .. } = request;
        let inserted = sqlx::query(
            "INSERT INTO outbox_replays (run, selection, rate, firsts, lasts, events) \
             VALUES ($1, $2::json, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        )
        .bind(id.as_str())
        .bind(serde_json::to_string(selection).map_err(|error| sqlx::Error::Encode(error.into()))?)
        .bind(rate.map(|rate| i32::try_from(rate.get()).unwrap_or(i32::MAX)))
        .bind(ranges.iter().map(|range| range.first).collect::<Vec<_>>())
        .bind(ranges.iter().map(|range| range.last).collect::<Vec<_>>())
        .bind(plans.iter().map(|plan| plan.events).sum::<i64>())
        .execute(&mut *connection)
        .in_time()
        .await?;
        let run = Self::find(connection, id).await?;
        if inserted.rows_affected() == 0 {
            return Err(ReplayError::Exists { run: run.id, state: run.state });
        }
        Ok(run)
    }

    /// Changes the state of a run that is in one of the states `from`. Returns whether it was.
    pub(super) async fn end(
        connection: &mut PgConnection,
        id: &RunId,
        from: &[&str],
        to: &str,
    ) -> Result<bool, sqlx::Error> {
        let ended = sqlx::query(
            "UPDATE outbox_replays SET state = $3, ended_at = now() WHERE run = $1 AND state = ANY ($2)",
        );
        let ended = ended.bind(id.as_str()).bind(from).bind(to).execute(connection).in_time().await?;
        Ok(ended.rows_affected() > 0)
    }
}

/// Returns a connection that holds the lock of the one active replay, for `run`.
pub(super) async fn connect(
    database: &PgConnectOptions,
    outlet: &Outlet,
    run: &RunId,
) -> Result<PgConnection, ReplayError> {
    let database = database.clone().application_name(&format!("{APPLICATION}{run}"));
    let class = outlet.own(REPLAY_LOCK);
    let (mut connection, taken) = leadership::try_take(&database, &class, 0, leadership::GRACE).await?;
    if taken {
        return Ok(connection);
    }
    Err(ReplayError::Busy { run: at_work(&mut connection, outlet).await? })
}

/// The active run, if there is one.
///
/// # Errors
/// When the query fails.
pub async fn at_work(connection: &mut PgConnection, outlet: &Outlet) -> Result<Option<RunId>, sqlx::Error> {
    let active = of_holders!("application_name", "AND objid = 0");
    let application: Option<String> =
        sqlx::query_scalar(active).bind(outlet.own(REPLAY_LOCK)).fetch_optional(connection).in_time().await?;
    Ok(application.and_then(|application| application.strip_prefix(APPLICATION)?.parse().ok()))
}
