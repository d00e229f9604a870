//! The stream's side of a comparison: its messages in order, a batch after the other.

use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::Stream;
use futures_util::TryStreamExt as _;
use tokio::time::{Instant, sleep, timeout};

use super::gaps::{detailed, held, signed};
use crate::stream::StreamError;

/// Asked of the server at a time.
const BATCH_MESSAGES: usize = 1_000;
/// The server answers with what it has, at once.
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than a replica that works lags behind its leader.
const LAG_MAX: Duration = Duration::from_secs(5);
const LAG_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Should it not be deleted, the server forgets the consumer after this.
const INACTIVE_MAX: Duration = Duration::from_secs(60);

/// Reads a stream through a consumer of its own, which acknowledges nothing and is kept nowhere.
#[derive(Debug)]
pub(super) struct Messages {
    stream: Stream,
    consumer: PullConsumer,
    /// Given so far, as the server counts them.
    given: u64,
    /// The sequence of the last of these, or the one before the first.
    reached: i64,
}

impl Messages {
    /// From this sequence on.
    pub(super) async fn from(stream: Stream, start: i64) -> Result<Self, StreamError> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start.unsigned_abs() },
            ack_policy: AckPolicy::None,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: INACTIVE_MAX,
            ..Default::default()
        };
        let created = stream.create_consumer(config).await;
        let consumer = created.map_err(|error| StreamError::new(name(&stream), &error))?;
        Ok(Self { stream, consumer, given: 0, reached: start - 1 })
    }

    /// The next ones, with their sequences; none when the stream holds none up to sequence `until`. A
    /// consumer may be at a replica that lags, so that its silence is not the end: it is asked again.
    pub(super) async fn next(&mut self, until: i64) -> Result<Vec<(i64, Message)>, StreamError> {
        let deadline = Instant::now() + LAG_MAX;
        loop {
            let messages = self.given().await?;
            let Self { stream, reached, .. } = self;
            if !messages.is_empty() || held(&detailed(stream).await?, *reached, until) == 0 {
                return Ok(messages);
            }
            if Instant::now() > deadline {
                let reason =
                    format!("the consumer gives nothing behind sequence {reached}, and there is more");
                return Err(StreamError { stream: name(stream).to_owned(), reason });
            }
            sleep(LAG_CHECK_INTERVAL).await;
        }
    }

    /// What the consumer gives at once. It leaves out none: the server numbers what it gives.
    async fn given(&mut self) -> Result<Vec<(i64, Message)>, StreamError> {
        let failed = |error: &dyn std::error::Error| StreamError::new(name(&self.stream), error);
        let asked = self.consumer.fetch().max_messages(BATCH_MESSAGES).messages().await;
        let asked = asked.map_err(|error| failed(&error))?;
        let batch: Vec<Message> = timeout(BATCH_TIMEOUT, asked.try_collect())
            .await
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&*error))?;
        let mut numbered = Vec::with_capacity(batch.len());
        for message in batch {
            let info = message.info().map_err(|error| failed(&*error))?;
            self.given += 1;
            if info.consumer_sequence != self.given {
                return Err(failed(&std::io::Error::other("messages were lost on the way")));
            }
            self.reached = signed(info.stream_sequence);
            numbered.push((self.reached, message));
        }
        Ok(numbered)
    }

    /// Leaves nothing behind at the server. Who may not delete lets it be forgotten.
    pub(super) async fn close(self) {
        let consumer = &self.consumer.cached_info().name;
        if let Err(error) = self.stream.delete_consumer(consumer).await {
            tracing::debug!(consumer, %error, "a consumer is left to be forgotten");
        }
    }
}

fn name(stream: &Stream) -> &str {
    &stream.cached_info().config.name
}
