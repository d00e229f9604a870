//! The stream's side of a comparison: its messages in order, a batch after the other.

use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep, timeout};

use super::gaps::{detailed, held, signed};
use crate::stream::StreamError;

/// Messages requested at a time.
const BATCH_MESSAGES: usize = 1_000;
/// The server answers at once with what it has. One that deletes or moves the consumer meanwhile may not answer at all.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Longer than a healthy replica lags behind its leader.
const LAG_MAX: Duration = Duration::from_secs(5);
const LAG_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How the client reports that nobody has answered. In a cluster a consumer that is new, or whose server has just gone,
/// is not reached for a moment.
const NO_RESPONDERS: &str = "from the stream: 503";
/// If the consumer cannot be deleted, the server removes it after this time.
const INACTIVE_MAX: Duration = Duration::from_secs(60);

/// Reads a stream through a temporary consumer in memory, which acknowledges nothing.
#[derive(Debug)]
pub(super) struct Messages {
    stream: Stream,
    consumer: PullConsumer,
    /// Messages delivered so far, as the server counts them.
    given: u64,
    /// The sequence of the last of these, or the one before the first.
    reached: i64,
}

impl Messages {
    /// Reads from this sequence on.
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

    /// The next messages, with their sequences; empty when the stream holds no more up to sequence `until`. The
    /// consumer may be on a replica that lags, or not be reached yet, and deliver nothing though there is more, or the
    /// question may be lost: then it is asked again.
    pub(super) async fn next(&mut self, until: i64) -> Result<Vec<(i64, Message)>, StreamError> {
        let deadline = Instant::now() + LAG_MAX;
        loop {
            let messages = self.given().await?;
            let Self { stream, reached, .. } = self;
            if !messages.is_empty() || held(&detailed(stream).await?, *reached, until) == 0 {
                return Ok(messages);
            }
            if Instant::now() > deadline {
                let reason = format!(
                    "the consumer delivers nothing after sequence {reached}, and the stream holds more"
                );
                return Err(StreamError::failed(name(stream), reason));
            }
            sleep(LAG_CHECK_INTERVAL).await;
        }
    }

    /// What the consumer delivers, until it has been silent for [`ANSWER_MAX`]. The server numbers its deliveries, so that
    /// a lost or late one shows.
    async fn given(&mut self) -> Result<Vec<(i64, Message)>, StreamError> {
        let failed = |error: &dyn std::error::Error| StreamError::new(name(&self.stream), error);
        let asked = self.consumer.fetch().max_messages(BATCH_MESSAGES).messages().await;
        let mut asked = asked.map_err(|error| failed(&error))?;
        let mut batch: Vec<Message> = Vec::new();
        while let Ok(Some(message)) = timeout(ANSWER_MAX, asked.next()).await {
            match message {
                Ok(message) => batch.push(message),
                Err(error) if error.to_string().contains(NO_RESPONDERS) => break,
                Err(error) => return Err(failed(&*error)),
            }
        }
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

    /// Deletes the consumer. If that is not permitted, the server removes it later.
    pub(super) async fn close(self) {
        let consumer = &self.consumer.cached_info().name;
        if let Err(error) = self.stream.delete_consumer(consumer).await {
            tracing::debug!(consumer, %error, "a temporary consumer could not be deleted: the server removes it when it has been idle");
        }
    }
}

fn name(stream: &Stream) -> &str {
    &stream.cached_info().config.name
}
