//! A chain of messages in flight into the stream of replays.

use async_nats::header::{NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{PublishAckFuture, PublishError};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;

use crate::stream::StreamError;

/// Messages published and not yet acknowledged, at most.
const REPLAY_IN_FLIGHT_MAX: usize = 1_000;

/// Messages of which each is stored only directly after the one before it, and the first only at the end that
/// the stream had when the chain began.
///
/// Each names the sequence and, but for the first, the message id that it expects to follow. The sequence alone
/// is not enough: if another writer took the place of the first message, the second would find the sequence
/// that it expects, and be stored without the first.
pub(super) struct Chain {
    jetstream: Context,
    stream: String,
    in_flight: FuturesOrdered<<PublishAckFuture as IntoFuture>::IntoFuture>,
    /// Sequence and message id of the last message that was sent.
    sent: u64,
    sent_id: Option<String>,
    /// Sequence of the last message that was acknowledged.
    published: u64,
}

impl Chain {
    /// A chain after sequence `end`.
    pub(super) fn new(nats: &Client, stream: String, end: u64) -> Self {
        let jetstream = jetstream::new(nats.clone());
        let in_flight = FuturesOrdered::new();
        Self { jetstream, stream, in_flight, sent: end, sent_id: None, published: end }
    }

    /// Whether one more message may be in flight.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight.len() < REPLAY_IN_FLIGHT_MAX
    }

    /// Whether no message is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Sends a message. `headers` must hold its message id.
    pub(super) async fn publish(
        &mut self,
        subject: String,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<(), StreamError> {
        let id = headers.get(NATS_MESSAGE_ID).map(ToString::to_string);
        headers.insert(NATS_EXPECTED_LAST_SEQUENCE, self.sent.to_string());
        if let Some(before) = self.sent_id.take() {
            headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, before);
        }
        let sent = self.jetstream.publish_with_headers(subject, headers, body).await;
        self.in_flight.push_back(sent.map_err(|error| self.failed(&error))?.into_future());
        self.sent += 1;
        self.sent_id = id;
        Ok(())
    }

    /// Waits until the oldest message in flight is acknowledged, or for ever if there is none. Cancel safe:
    /// dropping the wait loses nothing.
    pub(super) async fn acknowledged(&mut self) -> Result<(), StreamError> {
        let Some(acknowledgement) = self.in_flight.next().await else { return std::future::pending().await };
        let stored = acknowledgement.map_err(|error: PublishError| self.failed(&error))?;
        // `duplicate` proves nothing: the server also says it of a message that was removed since.
        if stored.duplicate || stored.sequence != self.published + 1 {
            let reason = format!("sequence {}, duplicate {}", stored.sequence, stored.duplicate);
            return Err(StreamError { stream: self.stream.clone(), reason });
        }
        self.published = stored.sequence;
        Ok(())
    }

    fn failed(&self, error: &dyn std::error::Error) -> StreamError {
        StreamError::new(&self.stream, error)
    }
}
