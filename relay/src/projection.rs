//! From the stream into tables, each event once: its effect and the position up to which the
//! shard has been applied are committed together, and acknowledged after that.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use futures_util::TryStreamExt as _;
use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::event::{Event, StoredEvent};
use crate::leadership;
use crate::outlet::{Outlet, Shard};
use crate::retry::Retry;
use crate::stream::{self, StreamError};

/// Events in one transaction, at the most.
const BATCH_EVENTS: usize = 1_000;
/// A batch is followed by the next no sooner than this, unless it was full: under load a few large
/// transactions cost less than many small ones.
const PACE: Duration = Duration::from_millis(50);
/// Asked of the server at a time.
const PULL_BYTES: usize = 16 << 20;
/// Asked anew so often when nothing comes: a consumer that is lost is noticed then. Without
/// heartbeats, at which the client's batches (0.51) stop listening.
const PULL_EXPIRY: Duration = Duration::from_secs(2);
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// Delivered and not yet acknowledged, at the most.
const UNACKNOWLEDGED_MAX: i64 = 10_000;
/// Longer than a batch can take; after that the server delivers it again.
const ACKNOWLEDGEMENT_WAIT: Duration = Duration::from_secs(30);
/// Old positions are removed once in so many batches.
const PRUNE_INTERVAL: u32 = 100;

/// A batch on its way into a projection.
pub type Applying<'a> = BoxFuture<'a, Result<(), ApplyError>>;

/// Tables that are a function of the events.
pub trait Projection: fmt::Debug + Send + Sync {
    /// Of the projection and its positions.
    fn name(&self) -> &'static str;

    /// Applies a batch, in order of position, within the transaction. Each event is given once.
    fn apply<'a>(&'a self, transaction: &'a mut PgConnection, events: &'a [Event]) -> Applying<'a>;
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

/// Applies one shard to projections, which share the feed: each event is fetched and read once, and
/// a batch is one transaction. One projector is active; any number stand by.
#[derive(Debug)]
pub struct Projector {
    /// The durable consumer.
    consumer: &'static str,
    projections: Vec<Box<dyn Projection>>,
    outlet: Outlet,
    shard: Shard,
    replicas: usize,
    database: PgConnectOptions,
    nats: Client,
    position: watch::Sender<i64>,
}

impl Projector {
    /// A projector of `shard` into `projections`, by the durable consumer of this name.
    #[must_use]
    pub fn new(
        consumer: &'static str,
        projections: Vec<Box<dyn Projection>>,
        outlet: Outlet,
        shard: Shard,
        replicas: usize,
        database: PgConnectOptions,
        nats: Client,
    ) -> Self {
        let position = watch::Sender::default();
        Self { consumer, projections, outlet, shard, replicas, database, nats, position }
    }

    /// Projects until it is dropped, which is safe at any point.
    pub async fn run(&self) -> Infallible {
        let mut retry = Retry::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let before = *self.position.borrow();
            let Err(error) = self.project().await;
            tracing::warn!(
                consumer = self.consumer, shard = %self.shard,
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
        let consumer = self.consumer(feed.position()).await?;
        loop {
            let next_batch_at = Instant::now() + PACE;
            let batch = next_batch(&consumer).await.map_err(|error| self.error(&*error))?;
            feed.absorb(batch.iter().map(event_of).collect::<Result<_, _>>()?).await?;
            if let Some(last) = batch.last() {
                last.ack().await.map_err(|error| self.error(&*error))?;
            }
            if batch.len() < BATCH_EVENTS {
                sleep_until(next_batch_at).await;
            }
        }
    }

    /// Waits until it is the only one to apply this shard to these projections.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn lead(&self) -> Result<Feed<'_>, ProjectorError> {
        let class = format!("projector_{}", self.consumer);
        let mut connection = leadership::take(&self.database, &class, self.shard.0).await?;
        let mut positions = Vec::with_capacity(self.projections.len());
        for projection in &self.projections {
            let position = sqlx::query_scalar("SELECT projection_position($1, $2)")
                .bind(projection.name())
                .bind(self.shard.0)
                .fetch_one(&mut connection)
                .await?;
            positions.push(position);
        }
        let feed = Feed { projector: self, connection, positions, batches: 0 };
        self.position.send_replace(feed.position());
        Ok(feed)
    }

    /// The durable consumer, at `position`. What another process was given and did not acknowledge
    /// would come back only after a while, so then the durable consumer is made anew.
    async fn consumer(&self, position: i64) -> Result<PullConsumer, ProjectorError> {
        let stream = stream::of_shard(&self.nats, &self.outlet, self.shard, self.replicas).await?;
        let start = position.unsigned_abs() + 1;
        let config = pull::Config {
            durable_name: Some(self.consumer.to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start },
            ack_policy: AckPolicy::All,
            ack_wait: ACKNOWLEDGEMENT_WAIT,
            max_ack_pending: UNACKNOWLEDGED_MAX,
            ..Default::default()
        };
        let mut consumer: PullConsumer = stream
            .get_or_create_consumer(self.consumer, config.clone())
            .await
            .map_err(|error| self.error(&error))?;
        if consumer.cached_info().delivered.stream_sequence >= start {
            stream.delete_consumer(self.consumer).await.map_err(|error| self.error(&error))?;
            consumer = stream.create_consumer(config).await.map_err(|error| self.error(&error))?;
        }
        Ok(consumer)
    }

    fn error(&self, error: &(dyn std::error::Error + 'static)) -> ProjectorError {
        StreamError::new(&self.outlet.stream_of(self.shard), error).into()
    }
}

/// All messages that are there, or else the next one. Fetched and not streamed: the server then
/// writes a batch at once, where it would otherwise write each message as it is stored.
async fn next_batch(consumer: &PullConsumer) -> Result<Vec<Message>, async_nats::Error> {
    let there = consumer.fetch().max_messages(BATCH_EVENTS).max_bytes(PULL_BYTES).messages().await?;
    // The server answers at once; when it is gone, nobody would.
    let mut batch: Vec<Message> = timeout(FETCH_TIMEOUT, there.try_collect()).await??;
    while batch.is_empty() {
        let next = consumer.batch().max_messages(1).expires(PULL_EXPIRY).messages().await?;
        batch = next.try_collect().await?;
    }
    Ok(batch)
}

/// The stream's sequence is the position.
fn event_of(message: &Message) -> Result<Event, ProjectorError> {
    let sequence = message.info().map_or(0, |info| info.stream_sequence);
    let position = i64::try_from(sequence).unwrap_or(i64::MAX);
    Event::parse(position, &message.payload)
        .map_err(|source| ApplyError::Unreadable { position, source }.into())
}

/// The right to apply events, and how far they have been applied.
#[derive(Debug)]
pub struct Feed<'a> {
    projector: &'a Projector,
    connection: PgConnection,
    /// Of each projection.
    positions: Vec<i64>,
    batches: u32,
}

impl Feed<'_> {
    /// The last position that all projections have applied.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.positions.iter().copied().min().unwrap_or_default()
    }

    /// Applies what is new of `events`, which may come in any order and any number of times. What
    /// is missing between the last position and the highest given is taken from the outbox.
    ///
    /// # Errors
    /// When anything fails, nothing of the batch is applied, or it is not known whether it was:
    /// [lead](Projector::lead) again.
    pub async fn absorb(&mut self, mut events: Vec<Event>) -> Result<(), ProjectorError> {
        let position = self.position();
        events.sort_by_key(|event| event.position);
        events.dedup_by_key(|event| event.position);
        events.retain(|event| event.position > position);
        let Some(last) = events.last().map(|event| event.position) else { return Ok(()) };
        if last - position != events.len() as i64 {
            return self.heal(last).await;
        }
        for batch in events.chunks(BATCH_EVENTS) {
            self.apply(batch).await?;
        }
        Ok(())
    }

    /// Applies the events up to `last` from the outbox.
    async fn heal(&mut self, last: i64) -> Result<(), ProjectorError> {
        let Projector { consumer, shard, outlet, .. } = self.projector;
        tracing::warn!(
            consumer, %shard, applied = self.position(), given = last,
            "gap in what the stream gave: events are taken from the outbox"
        );
        while self.position() < last {
            let after = self.position();
            let until = last.min(after + BATCH_EVENTS as i64);
            let stored = StoredEvent::between(&mut self.connection, *shard, after, until).await?;
            if stored.len() as i64 != until - after {
                return Err(ProjectorError::Gap { after, until });
            }
            let events = stored.iter().map(|event| {
                let position = event.position;
                let parsed = Event::parse(position, &event.body(outlet));
                parsed.map_err(|source| ApplyError::Unreadable { position, source })
            });
            self.apply(&events.collect::<Result<Vec<_>, _>>()?).await?;
        }
        Ok(())
    }

    /// Effects and positions in one transaction.
    async fn apply(&mut self, events: &[Event]) -> Result<(), ProjectorError> {
        let Some(last) = events.last().map(|event| event.position) else { return Ok(()) };
        let Projector { projections, shard, .. } = self.projector;
        let mut transaction = self.connection.begin().await?;
        let mut moved = Vec::with_capacity(projections.len());
        for (projection, position) in projections.iter().zip(&self.positions) {
            let new = &events[events.partition_point(|event| event.position <= *position)..];
            if !new.is_empty() {
                projection.apply(&mut transaction, new).await?;
                moved.push(projection.name());
            }
        }
        save_positions(&mut transaction, &moved, *shard, last).await?;
        self.batches += 1;
        if self.batches.is_multiple_of(PRUNE_INTERVAL) {
            prune_positions(&mut transaction, &moved, *shard, last).await?;
        }
        transaction.commit().await?;
        for position in &mut self.positions {
            *position = last.max(*position);
        }
        self.projector.position.send_replace(self.position());
        Ok(())
    }
}

async fn save_positions(
    transaction: &mut PgConnection,
    projections: &[&str],
    shard: Shard,
    position: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO projection_positions (projection, shard, position) SELECT unnest($1::text[]), $2, $3",
    )
    .bind(projections)
    .bind(shard.0)
    .bind(position)
    .execute(transaction)
    .await
    .map(drop)
}

async fn prune_positions(
    transaction: &mut PgConnection,
    projections: &[&str],
    shard: Shard,
    position: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM projection_positions WHERE projection = ANY ($1) AND shard = $2 AND position < $3",
    )
    .bind(projections)
    .bind(shard.0)
    .bind(position)
    .execute(transaction)
    .await
    .map(drop)
}
