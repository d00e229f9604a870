//! Appends events to the outbox, within the caller's transaction.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::event::NewEvent;
use crate::in_time::InTime as _;
use crate::outlet::Shard;
use crate::sqlstate::is_fault_of_data;

/// Why events were not appended. The caller's transaction can only be rolled back.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("the outbox refuses the event: {0}")]
    Refused(String),
    #[error("append to the outbox")]
    Database(#[source] sqlx::Error),
}

/// Appends events to a shard, in the order given, and returns the position of the last one.
///
/// The connection must be inside a transaction: the events are in the outbox if and only if it commits. The
/// shard stays locked until then, so make this the last statement of the transaction. Without events it locks the shard
/// and does nothing else: what has been appended before is committed then, and nobody else appends until the end.
///
/// # Errors
/// [`AppendError::Refused`] names the constraint when an event cannot be published: its type or key is not one
/// token of a subject, its data is not JSON or is over 64 KiB, its subject is over 1,024 characters, or its
/// trace context or request id is not a valid header value of at most 255 characters.
pub async fn append(
    transaction: &mut PgConnection,
    shard: Shard,
    events: &[NewEvent],
) -> Result<i64, AppendError> {
    let column = |part: fn(&NewEvent) -> &str| events.iter().map(part).collect::<Vec<_>>();
    sqlx::query_scalar("SELECT outbox_append_2($1, $2, $3, $4, $5, $6, $7, $8)")
        .bind(shard)
        .bind(events.iter().map(|event| Uuid::from(event.id)).collect::<Vec<_>>())
        .bind(column(|event| event.kind))
        .bind(column(|event| &event.key))
        .bind(column(|event| &event.subject))
        .bind(column(|event| &event.data))
        .bind(events.iter().map(|event| event.traceparent.as_deref()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.request_id.as_deref()).collect::<Vec<_>>())
        .fetch_one(transaction)
        .in_time()
        .await
        .map_err(|error| match &error {
            sqlx::Error::Database(refusal) if is_fault_of_data(&error) => {
                AppendError::Refused(refusal.constraint().unwrap_or(refusal.message()).to_owned())
            }
            _ => AppendError::Database(error),
        })
}
