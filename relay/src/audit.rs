//! Proves that a shard's outbox and its stream hold the same.

use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use async_nats::{Client, HeaderMap};
use futures_util::StreamExt as _;
use sqlx::PgConnection;
use tokio::time::timeout;

use crate::event::StoredEvent;
use crate::outlet::{Outlet, Shard};
use crate::stream::{self, StreamError};

/// Compared at a time, so that memory is bounded.
const BATCH_EVENTS: i64 = 500;
/// A message that is in the stream comes well within this.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// What was found in one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardAudit {
    pub shard: Shard,
    /// The highest position of the outbox.
    pub head: i64,
    /// The stream's last sequence.
    pub stream: i64,
    /// Each projection with the position up to which it has applied the shard.
    pub projections: Vec<(String, i64)>,
    /// The first thing that differs, if anything does.
    pub difference: Option<String>,
}

/// Why it could not be told.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("read the outbox")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Compares the ends and the number of messages; with `full` also every id, subject and
/// body, position by position.
/// What is appended meanwhile is left out.
///
/// # Errors
/// See [`AuditError`].
pub async fn audit_shard(
    connection: &mut PgConnection,
    nats: &Client,
    outlet: &Outlet,
    shard: Shard,
    full: bool,
) -> Result<ShardAudit, AuditError> {
    let head: i64 =
        sqlx::query_scalar("SELECT outbox_head($1)").bind(shard.0).fetch_one(&mut *connection).await?;
    let projections = sqlx::query_as(
        "SELECT projection, max(position) FROM projection_positions WHERE shard = $1 GROUP BY 1 ORDER BY 1",
    )
    .bind(shard.0)
    .fetch_all(&mut *connection)
    .await?;
    let name = outlet.stream_of(shard);
    let stream = stream::existing(nats, &name).await?;
    let Some(stream) = stream else {
        let difference = (head > 0).then(|| format!("stream {name} is not there, the outbox ends at {head}"));
        return Ok(ShardAudit { shard, head, stream: 0, projections, difference });
    };
    let state = &stream.cached_info().state;
    let last = i64::try_from(state.last_sequence).unwrap_or(i64::MAX);
    let mut difference = None;
    if last != head {
        difference = Some(format!("stream {name} ends at {last}, the outbox at {head}"));
    } else if state.messages != state.last_sequence {
        let missing = state.last_sequence - state.messages;
        difference = Some(format!("{missing} messages are missing from stream {name}"));
    }
    if full && last > 0 {
        difference =
            first_difference(connection, &stream, outlet, shard, head.min(last)).await?.or(difference);
    }
    Ok(ShardAudit { shard, head, stream: last, projections, difference })
}

/// Reads both sides by position up to `end`, and stops at the first that differs.
async fn first_difference(
    connection: &mut PgConnection,
    stream: &Stream,
    outlet: &Outlet,
    shard: Shard,
    end: i64,
) -> Result<Option<String>, AuditError> {
    let name = outlet.stream_of(shard);
    let failed = |error: &dyn std::error::Error| StreamError::new(&name, error);
    let config = pull::OrderedConfig { deliver_policy: DeliverPolicy::All, ..Default::default() };
    let consumer = stream.create_consumer(config).await.map_err(|error| failed(&error))?;
    let mut messages = consumer.messages().await.map_err(|error| failed(&error))?;
    let mut position = 0;
    while position < end {
        let until = end.min(position + BATCH_EVENTS);
        for event in StoredEvent::between(connection, shard, position, until).await? {
            let message = match timeout(MESSAGE_TIMEOUT, messages.next()).await {
                Ok(Some(message)) => message.map_err(|error| failed(&error))?,
                Ok(None) | Err(_) => {
                    return Ok(Some(format!("stream {name} gives no message for {}", event.position)));
                }
            };
            let sequence = message.info().map_err(|error| failed(&*error))?.stream_sequence;
            let id = message.headers.as_ref().and_then(message_id);
            let StoredEvent { position, id: event_id, kind, key, .. } = &event;
            if sequence != position.unsigned_abs() || id != Some(event_id.to_string().as_str()) {
                let id = id.unwrap_or("a message without id");
                return Ok(Some(format!(
                    "position {position} is event {event_id} in the outbox; stream {name} goes on with {id} \
                     at {sequence}"
                )));
            }
            let subject = outlet.subject(kind, key, shard);
            if message.subject.as_str() != subject {
                return Ok(Some(format!(
                    "position {position}, event {event_id}, belongs on {subject}; stream {name} has it on {}",
                    message.subject
                )));
            }
            if message.payload != event.body(outlet) {
                return Ok(Some(format!(
                    "position {position}, event {event_id}, has another body in stream {name} than in the outbox"
                )));
            }
        }
        position = until;
    }
    Ok(None)
}

fn message_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(async_nats::header::NATS_MESSAGE_ID).map(async_nats::HeaderValue::as_str)
}
