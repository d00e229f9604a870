//! From the stream into tables, each event once: its effect and the position up to which the
//! shard has been applied are committed together, and acknowledged after that.

use std::convert::Infallible;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, pull};
use futures_util::{FutureExt as _, StreamExt as _};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::event::{Event, StoredEvent};
use crate::leadership;
use crate::outlet::{Outlet, Shard};
use crate::retry::Retry;
use crate::stream::{self, StreamError};

/// Events in one transaction, at the most.
const BATCH_EVENTS: usize = 1_000;
/// Asked of the server at a time.
const PULL_MESSAGES: usize = 2_000;
const PULL_BYTES: usize = 16 << 20;
/// Delivered and not yet acknowledged, at the most.
const UNACKNOWLEDGED_MAX: i64 = 10_000;
/// Longer than a batch can take; after that the server delivers it again.
const ACKNOWLEDGEMENT_WAIT: Duration = Duration::from_secs(30);
/// Old positions are removed once in so many batches.
const PRUNE_INTERVAL: u32 = 100;

/// Tables that are a function of the events.
pub trait Projection: Send + Sync {
    /// Of the projection, its positions and its durable consumer.
    const NAME: &'static str;

    /// Applies a batch, in order of position, within the transaction. Each event is given once.
    fn apply(
        &self,
        transaction: &mut PgConnection,
        events: &[Event],
    ) -> impl Future<Output = Result<(), ApplyError>> + Send;
}

/// Why a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("the event at position {position} cannot be read")]
    Unreadable {
        position: i64,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Why a projector starts over.
#[derive(Debug, thiserror::Error)]
pub enum ProjectorError {
    #[error("apply events")]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("behind position {after}, up to {until}, something is neither in the stream nor in the outbox")]
    Gap { after: i64, until: i64 },
}

impl From<sqlx::Error> for ProjectorError {
    fn from(error: sqlx::Error) -> Self {
        Self::Apply(error.into())
    }
}

/// Applies one shard to one projection. One is active; any number stand by.
#[derive(Debug)]
pub struct Projector<P> {
    projection: P,
    outlet: Outlet,
    shard: Shard,
    replicas: usize,
    database: PgConnectOptions,
    nats: Client,
    position: watch::Sender<i64>,
}

impl<P: Projection> Projector<P> {
    /// A projector of `shard` into `projection`.
    #[must_use]
    pub fn new(
        projection: P,
        outlet: Outlet,
        shard: Shard,
        replicas: usize,
        database: PgConnectOptions,
        nats: Client,
    ) -> Self {
        Self { projection, outlet, shard, replicas, database, nats, position: watch::Sender::default() }
    }

    /// Projects until it is dropped, which is safe at any point.
    pub async fn run(&self) -> Infallible {
        let mut retry = Retry::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let before = *self.position.borrow();
            let Err(error) = self.project().await;
            tracing::warn!(
                projection = P::NAME, shard = %self.shard,
                error = &error as &dyn std::error::Error, "projector starts over"
            );
            if *self.position.borrow() > before {
                retry.reset();
            }
            sleep(retry.next_wait()).await;
        }
    }

    async fn project(&self) -> Result<Infallible, ProjectorError> {
        let mut feed = self.lead().await?;
        let mut messages = self.messages(feed.position).await?;
        loop {
            let batch = next_batch(&mut messages).await.map_err(|error| self.error(&*error))?;
            feed.absorb(batch.iter().filter_map(event_of).collect()).await?;
            if let Some(last) = batch.last() {
                last.ack().await.map_err(|error| self.error(&*error))?;
            }
        }
    }

    /// Waits until it is the only one to apply this shard to this projection.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn lead(&self) -> Result<Feed<'_, P>, ProjectorError> {
        let class = format!("projector_{}", P::NAME);
        let mut connection = leadership::take(&self.database, &class, self.shard.0).await?;
        let position = sqlx::query_scalar("SELECT projection_position($1, $2)")
            .bind(P::NAME)
            .bind(self.shard.0)
            .fetch_one(&mut connection)
            .await?;
        self.position.send_replace(position);
        Ok(Feed { projector: self, connection, position, batches: 0 })
    }

    /// The messages behind `position`. What another process was given and did not acknowledge
    /// would come back only after a while, so then the durable consumer is made anew.
    async fn messages(&self, position: i64) -> Result<pull::Stream, ProjectorError> {
        let stream = stream::of_shard(&self.nats, &self.outlet, self.shard, self.replicas).await?;
        let start = position.unsigned_abs() + 1;
        let config = pull::Config {
            durable_name: Some(P::NAME.to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start },
            ack_policy: AckPolicy::All,
            ack_wait: ACKNOWLEDGEMENT_WAIT,
            max_ack_pending: UNACKNOWLEDGED_MAX,
            ..Default::default()
        };
        let mut consumer: consumer::PullConsumer = stream
            .get_or_create_consumer(P::NAME, config.clone())
            .await
            .map_err(|error| self.error(&error))?;
        if consumer.cached_info().delivered.stream_sequence >= start {
            stream.delete_consumer(P::NAME).await.map_err(|error| self.error(&error))?;
            consumer = stream.create_consumer(config).await.map_err(|error| self.error(&error))?;
        }
        consumer
            .stream()
            .max_messages_per_batch(PULL_MESSAGES)
            .max_bytes_per_batch(PULL_BYTES)
            .messages()
            .await
            .map_err(|error| self.error(&error))
    }

    fn error(&self, error: &(dyn std::error::Error + 'static)) -> ProjectorError {
        StreamError::new(&self.outlet.stream_of(self.shard), error).into()
    }
}

/// Waits for a message, and takes all that have arrived.
async fn next_batch(messages: &mut pull::Stream) -> Result<Vec<Message>, async_nats::Error> {
    let mut batch = Vec::new();
    let mut next = messages.next().await;
    while let Some(message) = next {
        batch.push(message?);
        if batch.len() == BATCH_EVENTS {
            break;
        }
        next = match messages.next().now_or_never() {
            Some(next) => next,
            None => break,
        };
    }
    if batch.is_empty() { Err("the consumer is gone".into()) } else { Ok(batch) }
}

/// The stream's sequence is the position.
fn event_of(message: &Message) -> Option<Event> {
    let sequence = message.info().ok()?.stream_sequence;
    Some(Event { position: i64::try_from(sequence).ok()?, body: message.payload.clone() })
}

/// The right to apply events, and how far they have been applied.
#[derive(Debug)]
pub struct Feed<'a, P> {
    projector: &'a Projector<P>,
    connection: PgConnection,
    position: i64,
    batches: u32,
}

impl<P: Projection> Feed<'_, P> {
    /// The last position that has been applied.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Applies what is new of `events`, which may come in any order and any number of times. What
    /// is missing between the last position and the highest given is taken from the outbox.
    ///
    /// # Errors
    /// When anything fails, nothing of the batch is applied, or it is not known whether it was:
    /// [lead](Projector::lead) again.
    pub async fn absorb(&mut self, mut events: Vec<Event>) -> Result<(), ProjectorError> {
        events.sort_by_key(|event| event.position);
        events.dedup_by_key(|event| event.position);
        events.retain(|event| event.position > self.position);
        let Some(last) = events.last().map(|event| event.position) else { return Ok(()) };
        if last - self.position != events.len() as i64 {
            return self.heal(last).await;
        }
        for batch in events.chunks(BATCH_EVENTS) {
            self.apply(batch).await?;
        }
        Ok(())
    }

    /// Applies the events up to `last` from the outbox.
    async fn heal(&mut self, last: i64) -> Result<(), ProjectorError> {
        let Projector { shard, outlet, .. } = self.projector;
        tracing::warn!(
            projection = P::NAME, %shard, applied = self.position, given = last,
            "gap in what the stream gave: events are taken from the outbox"
        );
        while self.position < last {
            let until = last.min(self.position + BATCH_EVENTS as i64);
            let stored = StoredEvent::between(&mut self.connection, *shard, self.position, until).await?;
            if stored.len() as i64 != until - self.position {
                return Err(ProjectorError::Gap { after: self.position, until });
            }
            let events: Vec<_> = stored
                .iter()
                .map(|event| Event { position: event.position, body: event.body(outlet) })
                .collect();
            self.apply(&events).await?;
        }
        Ok(())
    }

    /// Effect and position in one transaction.
    async fn apply(&mut self, events: &[Event]) -> Result<(), ProjectorError> {
        let Some(last) = events.last().map(|event| event.position) else { return Ok(()) };
        let Projector { projection, shard, .. } = self.projector;
        let mut transaction = self.connection.begin().await?;
        projection.apply(&mut transaction, events).await?;
        sqlx::query("INSERT INTO projection_positions (projection, shard, position) VALUES ($1, $2, $3)")
            .bind(P::NAME)
            .bind(shard.0)
            .bind(last)
            .execute(&mut *transaction)
            .await?;
        self.batches += 1;
        if self.batches.is_multiple_of(PRUNE_INTERVAL) {
            sqlx::query(
                "DELETE FROM projection_positions WHERE projection = $1 AND shard = $2 AND position < $3",
            )
            .bind(P::NAME)
            .bind(shard.0)
            .bind(last)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        self.position = last;
        self.projector.position.send_replace(last);
        Ok(())
    }
}
