//! Into the outbox, within the caller's transaction.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::event::NewEvent;
use crate::outlet::Shard;

/// Why events were not appended. The caller's transaction can only be rolled back.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("the outbox refuses the event: {0}")]
    Refused(String),
    #[error("append to the outbox")]
    Database(#[source] sqlx::Error),
}

/// Appends events to a shard, in the order given, and answers the position of the last one.
///
/// The connection is to be inside a transaction: the events are there if and only if it commits.
/// The shard stays locked until then, so this is the transaction's last statement.
///
/// # Errors
/// [`AppendError::Refused`] names the constraint when an event cannot be published (its type or
/// key is not one token of a subject, its data is no JSON or over 64 KiB, its subject is over 1,024
/// characters, its trace context is no header).
pub async fn append(
    transaction: &mut PgConnection,
    shard: Shard,
    events: &[NewEvent],
) -> Result<i64, AppendError> {
    let column = |part: fn(&NewEvent) -> &str| events.iter().map(part).collect::<Vec<_>>();
    sqlx::query_scalar("SELECT outbox_append($1, $2, $3, $4, $5, $6, $7)")
        .bind(shard)
        .bind(events.iter().map(|event| Uuid::from(event.id)).collect::<Vec<_>>())
        .bind(column(|event| event.kind))
        .bind(column(|event| &event.key))
        .bind(column(|event| &event.subject))
        .bind(column(|event| &event.data))
        .bind(events.iter().map(|event| event.traceparent.as_deref()).collect::<Vec<_>>())
        .fetch_one(transaction)
        .await
        .map_err(|error| match &error {
            // Classes 22 (data exception) and 23 (constraint) are the event's fault.
            sqlx::Error::Database(refusal)
                if refusal.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23")) =>
            {
                AppendError::Refused(refusal.constraint().unwrap_or(refusal.message()).to_owned())
            }
            _ => AppendError::Database(error),
        })
}
