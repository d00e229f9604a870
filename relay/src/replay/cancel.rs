//! Cancels a run.

use async_nats::Client;
use sqlx::PgConnection;

use super::error::ReplayError;
use super::run::Run;
use super::run_id::RunId;
use super::stored;
use crate::outlet::Outlet;

/// Ends a run for ever, removes its messages from the stream and returns how many were removed. A process that
/// is publishing the run stops within a second.
///
/// # Errors
/// When there is no such run, or a server does not answer; then it can be cancelled again.
pub async fn cancel(
    connection: &mut PgConnection,
    nats: &Client,
    outlet: &Outlet,
    id: &RunId,
) -> Result<u64, ReplayError> {
    Run::end(connection, id, &["running", "done"], "cancelled").await?;
    Run::find(connection, id).await?;
    Ok(stored::remove(nats, outlet, id).await?)
}
