//! From the stream into projections: batches, acknowledged after they are committed.

use std::convert::Infallible;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::{Message, stream::Stream};
use futures_util::TryStreamExt as _;
use sqlx::Connection as _;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::epoch::Epochs;
use crate::event::{Event, epoch_of};
use crate::failpoint;
use crate::feed::{BATCH_EVENTS, Feed};
use crate::follow_up::FollowUps;
use crate::leadership;
use crate::metrics::{Metrics, seconds_since};
use crate::projection::{Projection, ProjectorError};
use crate::retry::Retry;
use crate::site::Site;
use crate::stream::{self, ConnectionLost, StreamError};
use crate::zoo;

/// A batch is followed by the next no sooner than this, unless it was full: under load a few large
/// transactions cost less than many small ones.
const PACE: Duration = Duration::from_millis(50);
/// Asked anew so often when nothing comes: a consumer that is lost is noticed then. Without
/// heartbeats, at which the client's batches (0.51) stop listening.
const PULL_EXPIRY: Duration = Duration::from_secs(2);
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// Delivered and not yet acknowledged, at the most.
const UNACKNOWLEDGED_MAX: i64 = 10_000;
/// Longer than a batch can take; after that the server delivers it again.
const ACKNOWLEDGEMENT_WAIT: Duration = Duration::from_secs(30);

/// Applies one shard to projections, which share the feed: each event is fetched and read once, and
/// a batch is one transaction. One projector is active; any number stand by.
#[derive(Debug)]
pub struct Projector {
    site: Site,
    /// The durable consumer.
    consumer: &'static str,
    projections: Vec<Box<dyn Projection>>,
    position: watch::Sender<i64>,
    metrics: Metrics,
}

impl Projector {
    /// A projector into `projections`, by the durable consumer of this name.
    #[must_use]
    pub fn new(site: Site, consumer: &'static str, projections: Vec<Box<dyn Projection>>) -> Self {
        let (position, metrics) = (watch::Sender::default(), Metrics::default());
        Self { site, consumer, projections, position, metrics }
    }

    /// Measures here.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// The last position that all projections have applied, now and whenever it changes; as it was while
    /// another process is the active one.
    #[must_use]
    pub fn position(&self) -> watch::Receiver<i64> {
        self.position.subscribe()
    }

    /// Projects until it is dropped, which is safe at any point.
    pub async fn run(&self) -> Infallible {
        let mut retry = Retry::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut told = false;
        loop {
            let before = *self.position.borrow();
            let Err(error) = self.project().await;
            let waits = matches!(error, ProjectorError::NoStream(_));
            if waits && !told {
                tracing::info!(consumer = self.consumer, shard = %self.site.shard, "{error}");
            } else if !waits {
                tracing::warn!(
                    consumer = self.consumer, shard = %self.site.shard,
                    error = &error as &dyn std::error::Error, "projector starts over"
                );
            }
            told = waits;
            if *self.position.borrow() > before {
                retry.reset();
            }
            sleep(retry.next_wait()).await;
        }
    }

    async fn project(&self) -> Result<Infallible, ProjectorError> {
        let mut feed = self.lead().await?;
        failpoint::reached("projector.leads").await;
        let epochs = Epochs::read(&mut feed.connection, self.site.shard).await?;
        let (stream, consumer) = self.consumer(&epochs, feed.position()).await?;
        let mut there = 0;
        loop {
            let next_batch_at = Instant::now() + PACE;
            let batch = tokio::select! {
                batch = next_batch(&consumer) => batch.map_err(|error| self.error(&*error))?,
                // What was asked for before that never comes.
                () = stream::connection_lost(&self.site.nats) => return Err(self.error(&ConnectionLost)),
            };
            let Some(last) = batch.last() else {
                feed.connection.ping().await?; // who does not ask loses his session
                if let Some((_, published)) = epochs.place_of(there).filter(|(_, at)| *at > feed.position()) {
                    return self.overlooked(&mut feed, &stream, published).await;
                }
                there = stream::end(&self.site.nats, &self.site.stream()).await?.cast_signed();
                continue;
            };
            let events = batch.iter().filter_map(|message| event_of(message, &epochs).transpose());
            let events: Vec<Event> = events.collect::<Result<_, _>>()?;
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

    /// The consumer has given nothing for a whole [`PULL_EXPIRY`], though the stream has had something for it
    /// all the time, up to position `published`: its leader may be a replica that lags, or a stranger has
    /// changed it. It is made anew, and what it has not given is applied.
    async fn overlooked(
        &self,
        feed: &mut Feed<'_>,
        stream: &Stream,
        published: i64,
    ) -> Result<Infallible, ProjectorError> {
        let after = feed.position();
        stream.delete_consumer(self.consumer).await.map_err(|error| self.error(&error))?;
        feed.take_from_outbox(published).await?;
        Err(ProjectorError::Mute { after, published })
    }

    /// Waits until it is the only one to apply this shard to these projections.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn lead(&self) -> Result<Feed<'_>, ProjectorError> {
        let class = format!("projector_{}", self.consumer);
        let connection = leadership::take(&self.site.database, &class, self.site.shard.0).await?;
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

    /// The durable consumer, at `position`. What another process was given and did not acknowledge
    /// would come back only after a while, so then the durable consumer is made anew.
    async fn consumer(
        &self,
        epochs: &Epochs,
        position: i64,
    ) -> Result<(Stream, PullConsumer), ProjectorError> {
        let name = self.site.stream();
        let stream = stream::existing(&self.site.nats, &name).await?;
        let stream = stream.ok_or(ProjectorError::NoStream(name))?;
        let start = epochs.sequence_of(position + 1).unsigned_abs();
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
        Ok((stream, consumer))
    }

    fn error(&self, error: &(dyn std::error::Error + 'static)) -> ProjectorError {
        StreamError::new(&self.site.stream(), error).into()
    }
}

/// All messages that are there, or else the next one, or nothing within [`PULL_EXPIRY`]. Fetched and not streamed: the server then
/// writes a batch at once, where it would otherwise write each message as it is stored. Without a limit of
/// bytes (an event is small): with one, servers from 2.10 on tell the end of a batch, and where the consumer
/// has replicas they tell it before they give the messages.
async fn next_batch(consumer: &PullConsumer) -> Result<Vec<Message>, async_nats::Error> {
    let there = consumer.fetch().max_messages(BATCH_EVENTS).messages().await?;
    // The server answers at once; when it is gone, nobody would.
    let mut batch: Vec<Message> = timeout(FETCH_TIMEOUT, there.try_collect()).await??;
    if batch.is_empty() {
        let next = consumer.batch().max_messages(1).expires(PULL_EXPIRY).messages().await?;
        batch = next.try_collect().await?;
    }
    Ok(batch)
}

/// The event of a message. Nothing when its epoch was left, or when it cannot be read: then the outbox
/// has it.
pub(crate) fn event_of(message: &Message, epochs: &Epochs) -> Result<Option<Event>, ProjectorError> {
    let sequence = message.info().map_or(0, |info| info.stream_sequence).cast_signed();
    let Some((epoch, position)) = epochs.place_of(sequence) else { return Ok(None) };
    if epoch_of(message.headers.as_ref()) != Some(epoch.epoch) {
        return Err(ProjectorError::EpochBegan);
    }
    match Event::parse(position, &message.payload) {
        Ok(event) => Ok(Some(event)),
        Err(error) => {
            tracing::warn!(sequence, %error, "a message is no event");
            Ok(None)
        }
    }
}
