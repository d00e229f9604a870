//! The streams: one for each shard, which only its relay writes, one for replays, and one for dead letters.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::{self, ErrorCode, stream};
use futures_util::TryStreamExt as _;
use tokio::time::sleep;

use crate::outlet::{Outlet, Shard};
use crate::ownership::{self, Foreign, Owner};

/// For how long the server remembers message ids. Nothing depends on it, and each id costs the server memory,
/// so it is short.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(5);
/// Replayed events are kept for a week, so that a slow subscriber can fetch them.
const REPLAY_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// A replay that was interrupted and is run again within this time leaves no second copies.
const REPLAY_DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// How often a task that waits for NATS checks the connection.
pub(crate) const CONNECTION_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Dead letters in the stream, at most: far more than an operator reads.
const DEAD_MESSAGES_MAX: i64 = 100_000;

/// Why a stream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A request to NATS failed.
    #[error("NATS, stream {stream}: {reason}")]
    Failed { stream: String, reason: String },
    #[error(
        "NATS, stream {stream}: it does not exist and was not created ({reason}): use a login that may create it, or let an \
         administrator create it"
    )]
    NotCreated { stream: String, reason: String },
    #[error(transparent)]
    Foreign(#[from] Foreign),
}

impl StreamError {
    pub(crate) fn new(stream: &str, error: &dyn std::error::Error) -> Self {
        Self::failed(stream, error.to_string())
    }

    pub(crate) fn failed(stream: &str, reason: impl Into<String>) -> Self {
        Self::Failed { stream: stream.to_owned(), reason: reason.into() }
    }
}

/// How many times the client has connected.
#[must_use]
pub fn connects(nats: &Client) -> u64 {
    nats.statistics().connects.load(Ordering::Relaxed)
}

/// Whether the client has lost the connection that it had when [`connects`] was `connects_before`.
#[must_use]
pub fn was_lost(nats: &Client, connects_before: u64) -> bool {
    nats.connection_state() != State::Connected || connects(nats) != connects_before
}

/// Waits until the client has reconnected: replies to earlier requests never arrive after that.
pub(crate) async fn connection_lost(nats: &Client) {
    let before = connects(nats);
    while connects(nats) == before {
        sleep(CONNECTION_CHECK_INTERVAL).await;
    }
}

/// See [`connection_lost`].
#[derive(Debug, thiserror::Error)]
#[error("the connection was lost and re-established")]
pub(crate) struct ConnectionLost;

/// Returns the stream of a shard, and creates it if there is none. Limits retention, so that every reader can
/// have a durable consumer of its own. A full stream refuses new messages and drops no old ones.
///
/// # Errors
/// When the stream belongs to another deployment, or NATS refuses the request or does not answer.
pub async fn of_shard(
    nats: &Client,
    outlet: &Outlet,
    shard: Shard,
    replicas: usize,
) -> Result<stream::Stream, StreamError> {
    get_or_create(
        nats,
        outlet,
        stream::Config {
            name: outlet.stream_of(shard),
            subjects: vec![outlet.subjects_of(shard)],
            num_replicas: replicas,
            duplicate_window: DUPLICATE_WINDOW,
            discard: stream::DiscardPolicy::New,
            ..Default::default()
        },
    )
    .await
}

/// Returns the stream of replayed events, and creates it if there is none. It has one replica: lost messages
/// can be replayed again, and its header `Nats-Expected-Last-Msg-Id` would stop replicas.
///
/// # Errors
/// When the stream has more replicas or belongs to another deployment, or NATS refuses the request or does not answer.
pub async fn of_replays(nats: &Client, outlet: &Outlet) -> Result<stream::Stream, StreamError> {
    may_replay(nats, outlet).await?;
    let stream = get_or_create(
        nats,
        outlet,
        stream::Config {
            name: outlet.replay_stream(),
            subjects: vec!["replay.>".to_owned()],
            num_replicas: 1,
            duplicate_window: REPLAY_DUPLICATE_WINDOW,
            max_age: REPLAY_MAX_AGE,
            ..Default::default()
        },
    )
    .await?;
    match stream.cached_info().config.num_replicas {
        1 => Ok(stream),
        more => Err(StreamError::failed(
            &outlet.replay_stream(),
            format!("it has {more} replicas and must have one"),
        )),
    }
}

/// Makes sure that the stream of replays belongs to no other deployment or, if there is none, that the stream of shard 0
/// does not. A NATS that does not answer passes: it is asked again.
///
/// # Errors
/// When it belongs to another deployment.
pub(crate) async fn may_replay(nats: &Client, outlet: &Outlet) -> Result<(), StreamError> {
    match ours(nats, outlet, &outlet.replay_stream()).await {
        Ok(None) => none_is_foreign(nats, outlet, &[outlet.stream_of(Shard(0))]).await,
        Err(foreign @ StreamError::Foreign(_)) => Err(foreign),
        Ok(Some(_)) | Err(_) => Ok(()),
    }
}

/// Returns the stream of dead letters, and creates it if there is none, with the number of replicas of the
/// shards' streams. The relay of shard 0 does so when it starts, so a projector needs no right to create a stream. When
/// it is full, the projections wait.
///
/// # Errors
/// When there is no stream of shard 0 yet, the stream belongs to another deployment, or NATS refuses the request or
/// does not answer.
pub async fn of_dead(nats: &Client, outlet: &Outlet) -> Result<stream::Stream, StreamError> {
    if let Some(stream) = ours(nats, outlet, &outlet.dead_stream()).await? {
        return Ok(stream);
    }
    let of_shard = outlet.stream_of(Shard(0));
    let Some(of_shard) = ours(nats, outlet, &of_shard).await? else {
        return Err(StreamError::failed(&of_shard, "there is no such stream yet; a relay creates it"));
    };
    get_or_create(
        nats,
        outlet,
        stream::Config {
            name: outlet.dead_stream(),
            subjects: vec![format!("dead.{}.>", outlet.subjects)],
            num_replicas: of_shard.cached_info().config.num_replicas,
            duplicate_window: DUPLICATE_WINDOW,
            max_messages: DEAD_MESSAGES_MAX,
            discard: stream::DiscardPolicy::New,
            ..Default::default()
        },
    )
    .await
}

async fn get_or_create(
    nats: &Client,
    outlet: &Outlet,
    config: stream::Config,
) -> Result<stream::Stream, StreamError> {
    let name = config.name.clone();
    if let Some(stream) = ours(nats, outlet, &name).await? {
        return Ok(stream);
    }
    let config = stream::Config {
        retention: stream::RetentionPolicy::Limits,
        storage: stream::StorageType::File,
        allow_direct: true,
        metadata: ownership::metadata(outlet),
        ..config
    };
    let created = jetstream::new(nats.clone()).create_stream(config).await;
    created.map_err(|error| StreamError::NotCreated { stream: name, reason: error.to_string() })
}

fn refuse_foreign(outlet: &Outlet, stream: &stream::Stream) -> Result<(), Foreign> {
    match ownership::owner(outlet, &stream.cached_info().config) {
        Owner::Foreign(foreign) => Err(foreign),
        Owner::Ours | Owner::Unknown => Ok(()),
    }
}

/// The stream; `None` when the server says that there is none.
///
/// # Errors
/// When it belongs to another deployment than the outlet's, or the server does not answer.
pub async fn ours(nats: &Client, outlet: &Outlet, name: &str) -> Result<Option<stream::Stream>, StreamError> {
    let stream = existing(nats, name).await?;
    stream.iter().try_for_each(|stream| refuse_foreign(outlet, stream))?;
    Ok(stream)
}

/// Makes sure that none of these streams belongs to another deployment. A stream about which NATS does not answer
/// passes: what needs it asks again.
///
/// # Errors
/// When one belongs to another deployment.
pub(crate) async fn none_is_foreign(
    nats: &Client,
    outlet: &Outlet,
    names: &[String],
) -> Result<(), StreamError> {
    for name in names {
        if let Err(foreign @ StreamError::Foreign(_)) = ours(nats, outlet, name).await {
            return Err(foreign);
        }
    }
    Ok(())
}

/// The stream, of whichever deployment; `None` when the server says that there is none.
///
/// # Errors
/// When the server does not answer that question.
pub async fn existing(nats: &Client, name: &str) -> Result<Option<stream::Stream>, StreamError> {
    match jetstream::new(nats.clone()).get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(StreamError::new(name, &error)),
        },
    }
}

/// The last sequence of a stream, 0 while there is none.
///
/// # Errors
/// When NATS does not answer.
pub async fn end(nats: &Client, name: &str) -> Result<u64, StreamError> {
    Ok(existing(nats, name).await?.map_or(0, |stream| stream.cached_info().state.last_sequence))
}

/// The number of messages that a stream holds on each subject that matches `filter`; empty while there is no
/// stream.
///
/// # Errors
/// When NATS does not answer.
pub async fn counts(nats: &Client, name: &str, filter: &str) -> Result<Vec<(String, u64)>, StreamError> {
    let Some(stream) = existing(nats, name).await? else { return Ok(Vec::new()) };
    let counted = stream.info_with_subjects(filter).await.map_err(|error| StreamError::new(name, &error))?;
    let counted = counted.map_ok(|(subject, count)| (subject, count as u64)).try_collect().await;
    counted.map_err(|error| StreamError::new(name, &error))
}

/// What a stream holds on one subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub messages: i64,
    /// The last sequence of the stream, read just before: `messages` may include some behind it.
    pub end: i64,
}

/// What a stream holds on a subject without wildcards; nothing while there is no stream.
///
/// # Errors
/// When NATS does not answer.
pub async fn count_of(nats: &Client, name: &str, subject: &str) -> Result<Count, StreamError> {
    let failed = |error| StreamError::new(name, &error);
    let Some(stream) = existing(nats, name).await? else { return Ok(Count::default()) };
    let mut info = stream.info_with_subjects(subject).await.map_err(failed)?;
    let end = info.info.state.last_sequence.cast_signed();
    // There is one page, with one subject.
    let counted = info.try_next().await.map_err(failed)?;
    Ok(Count { messages: counted.map_or(0, |(_, count)| count as i64), end })
}
