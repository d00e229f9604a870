//! Applies the events of a stream to projections in batches, and acknowledges each batch after its commit.

use std::convert::Infallible;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{ConsumerErrorKind, Stream};
use futures_util::TryStreamExt as _;
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::epoch::Epochs;
use crate::failpoint;
use crate::feed::{BATCH_EVENTS, Feed};
use crate::follow_up::FollowUps;
use crate::in_time::InTime as _;
use crate::leadership;
use crate::messages::events_of;
use crate::metrics::{Metrics, seconds_since};
use crate::outage::{Begins, Told};
use crate::ownership;
use crate::projection::{Projection, ProjectorError};
use crate::retry::Retry;
use crate::site::Site;
use crate::stream::{self, ConnectionLost, StreamError};
use crate::zoo;

/// The shortest time between two batches, unless the first was full: under load a few large transactions cost
/// less than many small ones.
const PROJECTOR_PACE: Duration = Duration::from_millis(50);
/// How long one request for messages waits when there are none; a lost consumer is noticed after that. Without
/// heartbeats, which end the client's batches early (async-nats 0.51).
const PULL_EXPIRY: Duration = Duration::from_secs(2);
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// Messages delivered and not yet acknowledged, at most.
const UNACKNOWLEDGED_MAX: i64 = 10_000;
/// Longer than a batch takes; after this the server redelivers it.
const ACKNOWLEDGEMENT_WAIT: Duration = Duration::from_secs(30);

/// Applies one shard to projections. They share the feed: each event is fetched and parsed once, and a batch is
/// one transaction. One projector of a shard is active; any number stand by.
#[derive(Debug)]
pub struct Projector {
    site: Site,
    /// The name of the durable consumer, without that of the deployment.
    consumer: &'static str,
    /// The name of the durable consumer.
    durable: String,
    projections: Vec<Box<dyn Projection>>,
    position: watch::Sender<i64>,
    metrics: Metrics,
}

impl Projector {
    /// A projector into `projections`, which reads through the durable consumer of this name, with that of the
    /// deployment ([`Outlet::consumer`](crate::Outlet::consumer)).
    #[must_use]
    pub fn new(site: Site, consumer: &'static str, projections: Vec<Box<dyn Projection>>) -> Self {
        let (position, metrics) = (watch::Sender::default(), Metrics::default());
        let durable = site.outlet.consumer(consumer);
        Self { site, consumer, durable, projections, position, metrics }
    }

    /// Uses these metrics.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// The last position that all projections have applied, updated on each change. It does not change while
    /// another process is active.
    #[must_use]
    pub fn position(&self) -> watch::Receiver<i64> {
        self.position.subscribe()
    }

    /// Applies events until it is dropped, which is safe at any point.
    pub async fn run(&self) -> Infallible {
        let mut retry = Retry::new(Duration::from_millis(50), Duration::from_secs(2));
        let (mut told, mut waits) = (Told::new(&self.site.outage, &self.site.nats), false);
        loop {
            let before = *self.position.borrow();
            told.tries();
            let Err(error) = self.project(&mut told).await;
            let (consumer, shard) = (self.durable.as_str(), self.site.shard);
            if let ProjectorError::NoStream(_) = error {
                if !waits {
                    tracing::info!(consumer, %shard, "{error}");
                }
                told.waits();
                waits = true;
            } else {
                let (warns, error) = (told.warns(&error.failed()), &error as &dyn std::error::Error);
                waits &= !warns;
                if warns {
                    tracing::warn!(consumer, %shard, error, "projector starts over");
                } else {
                    tracing::debug!(consumer, %shard, error, "projector starts over");
                }
            }
            if *self.position.borrow() > before {
                retry.reset();
            }
            sleep(retry.next_wait()).await;
        }
    }

    async fn project(&self, told: &mut Told) -> Result<Infallible, ProjectorError> {
        let (connection, at_once) = self.take_lock(|| told.connected()).await?;
        let mut feed = self.feed(connection).await?;
        failpoint::reached("projector.leads").await;
        let epochs = Epochs::read(&mut feed.connection, self.site.shard).await?;
        let (stream, durable) = self.consumer(&epochs, feed.position()).await?;
        let (consumer, shard, position) = (self.durable.as_str(), self.site.shard, feed.position());
        match told.begins(at_once) {
            Begins::Silently => tracing::debug!(consumer, %shard, position, "the projector goes on"),
            Begins::Leads => tracing::info!(consumer, %shard, position, "the projector leads"),
            Begins::GoesOn => tracing::info!(consumer, %shard, position, "the projector goes on"),
        }
        let mut there = 0;
        loop {
            let next_batch_at = Instant::now() + PROJECTOR_PACE;
            let batch = tokio::select! {
                batch = next_batch(&durable) => batch.map_err(|error| self.error(&*error))?,
                // Replies to requests of the old connection never arrive.
                () = stream::connection_lost(&self.site.nats) => return Err(self.error(&ConnectionLost)),
            };
            let Some(last) = batch.last() else {
                feed.connection.ping().in_time().await?; // an idle session is ended
                if let Some((_, published)) = epochs.place_of(there).filter(|(_, at)| *at > feed.position()) {
                    return self.overlooked(&mut feed, &stream, published).await;
                }
                there = stream::end(&self.site.nats, &self.site.stream()).await?.cast_signed();
                continue;
            };
            let events = events_of(&batch, &epochs, &mut feed.connection, self.site.shard).await?;
            failpoint::reached("projector.fetched").await;
            let before = feed.position();
            let appended: Vec<_> = events.iter().map(|event| (event.position, event.time)).collect();
            if zoo::has("acknowledged-before-commit") {
                last.ack().await.map_err(|error| self.error(&*error))?;
            }
            feed.absorb(events).await?;
            failpoint::reached("projector.committed").await;
            self.measure(before, feed.position(), &appended);
            last.ack().await.map_err(|error| self.error(&*error))?;
            failpoint::reached("projector.acknowledged").await;
            if batch.len() < BATCH_EVENTS {
                sleep_until(next_batch_at).await;
            }
        }
    }

    /// The consumer has delivered nothing for a whole [`PULL_EXPIRY`] though the stream held events up to
    /// position `published` all the time: its leader is a replica that lags, or another client has changed it.
    /// Deletes the consumer, to be recreated, and applies from the outbox what it did not deliver.
    async fn overlooked(
        &self,
        feed: &mut Feed<'_>,
        stream: &Stream,
        published: i64,
    ) -> Result<Infallible, ProjectorError> {
        let after = feed.position();
        stream.delete_consumer(&self.durable).await.map_err(|error| self.error(&error))?;
        feed.take_from_outbox(published).await?;
        Err(ProjectorError::Mute { after, published })
    }

    /// Waits until this process is the only one to apply this shard to these projections.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn lead(&self) -> Result<Feed<'_>, ProjectorError> {
        let (connection, _) = self.take_lock(|| {}).await?;
        self.feed(connection).await
    }

    /// Waits for the lock of the shard, from `connected` on. Returns its connection, and whether it was free.
    async fn take_lock(&self, connected: impl FnOnce()) -> Result<(PgConnection, bool), sqlx::Error> {
        let class = self.site.outlet.own(&format!("projector_{}", self.consumer));
        leadership::take(&self.site.database, &class, self.site.shard.0, connected).await
    }

    async fn feed(&self, connection: PgConnection) -> Result<Feed<'_>, ProjectorError> {
        let Self { site, projections, position, .. } = self;
        Ok(Feed::open(site, projections, connection, position, FollowUps::Append).await?)
    }

    fn measure(&self, before: i64, after: i64, appended: &[(i64, OffsetDateTime)]) {
        self.metrics.applied.get_or_create(&self.site.shard.into()).inc_by((after - before).unsigned_abs());
        let to_projected = self.metrics.to_projected.get_or_create(&self.site.shard.into());
        for (_, time) in appended.iter().filter(|(position, _)| *position > before) {
            to_projected.observe(seconds_since(*time));
        }
    }

    /// Returns the durable consumer, positioned after `position`, unless it belongs to another deployment. It is
    /// recreated if it has another configuration, or if messages were delivered to another process and not
    /// acknowledged, because the server would redeliver them only after [`ACKNOWLEDGEMENT_WAIT`].
    async fn consumer(
        &self,
        epochs: &Epochs,
        position: i64,
    ) -> Result<(Stream, PullConsumer), ProjectorError> {
        let name = self.site.stream();
        let stream = stream::ours(&self.site.nats, &self.site.outlet, &name).await?;
        let stream = stream.ok_or(ProjectorError::NoStream(name))?;
        let start = epochs.sequence_of(position + 1).unsigned_abs();
        let config = pull::Config {
            durable_name: Some(self.durable.clone()),
            description: ownership::description(&self.site.outlet),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start },
            ack_policy: AckPolicy::All,
            ack_wait: ACKNOWLEDGEMENT_WAIT,
            max_ack_pending: UNACKNOWLEDGED_MAX,
            ..Default::default()
        };
        let consumer: Option<PullConsumer> =
            match stream.get_or_create_consumer(&self.durable, config.clone()).await {
                Ok(consumer) => Some(consumer),
                Err(error) if error.kind() == ConsumerErrorKind::InvalidConsumerType => None, // it pushes
                Err(error) => return Err(self.error(&error)),
            };
        if let Some(consumer) = &consumer {
            let config = &consumer.cached_info().config;
            ownership::refuse_foreign_consumer(&self.site.outlet, self.site.stream(), config)
                .map_err(StreamError::from)?;
        }
        let consumer = consumer.filter(|consumer| fits(&consumer.cached_info().config));
        if consumer.is_none() {
            tracing::warn!(
                consumer = self.durable, shard = %self.site.shard,
                "the durable consumer of the projector has another configuration: it is recreated"
            );
        }
        let kept = consumer.filter(|consumer| consumer.cached_info().delivered.stream_sequence < start);
        if let Some(consumer) = kept {
            return Ok((stream, consumer));
        }
        stream.delete_consumer(&self.durable).await.map_err(|error| self.error(&error))?;
        let consumer = stream.create_consumer(config).await.map_err(|error| self.error(&error))?;
        Ok((stream, consumer))
    }

    fn error(&self, error: &(dyn std::error::Error + 'static)) -> ProjectorError {
        StreamError::new(&self.site.stream(), error).into()
    }
}

/// Whether a durable consumer delivers every event, as a projector needs it.
fn fits(config: &consumer::Config) -> bool {
    config.ack_policy == AckPolicy::All
        && config.max_ack_pending == UNACKNOWLEDGED_MAX
        && config.filter_subject.is_empty()
        && config.filter_subjects.is_empty()
        && !config.headers_only
        && config.max_deliver <= 0
}

/// All messages that the stream holds; if there are none, the next one, or nothing after [`PULL_EXPIRY`]. They
/// are fetched and not streamed, because the server then sends a batch in one write instead of one write for
/// each message. There is no limit of bytes (an event is small): with one, servers from 2.10 on announce the
/// end of a batch, and with a replicated consumer they announce it before the messages.
async fn next_batch(consumer: &PullConsumer) -> Result<Vec<Message>, async_nats::Error> {
    let there = consumer.fetch().max_messages(BATCH_EVENTS).messages().await?;
    // The server answers at once, or when the request expires; the timeout is for a server that is gone.
    let mut batch: Vec<Message> = timeout(FETCH_TIMEOUT, there.try_collect()).await??;
    if batch.is_empty() {
        let next = consumer.batch().max_messages(1).expires(PULL_EXPIRY).messages().await?;
        batch = timeout(FETCH_TIMEOUT, next.try_collect()).await??;
    }
    Ok(batch)
}
