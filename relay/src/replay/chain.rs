//! Messages on their way into the stream of replays.

use async_nats::header::{NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{PublishAckFuture, PublishError};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;

use crate::stream::StreamError;

/// Published and not yet confirmed, at the most.
const IN_FLIGHT_MAX: usize = 1_000;

/// Messages of which each is stored only directly behind the one before it, and the first only at
/// the end that the stream had when the chain began.
///
/// Each says which sequence and, but for the first, which message id it expects to follow. The
/// sequence alone would not do: if another writer took the place of the first, the second would
/// find the sequence that it expects, and be stored without the first.
pub(super) struct Chain {
    jetstream: Context,
    stream: String,
    in_flight: FuturesOrdered<<PublishAckFuture as IntoFuture>::IntoFuture>,
    /// Sequence and message id of the last that was sent.
    sent: u64,
    sent_id: Option<String>,
    /// Sequence of the last that is confirmed.
    published: u64,
}

impl Chain {
    /// A chain behind sequence `end`.
    pub(super) fn new(nats: &Client, stream: String, end: u64) -> Self {
        let jetstream = jetstream::new(nats.clone());
        let in_flight = FuturesOrdered::new();
        Self { jetstream, stream, in_flight, sent: end, sent_id: None, published: end }
    }

    /// Whether one more may be on its way.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT_MAX
    }

    /// Whether all is confirmed.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Sends a message on its way. Its headers have its message id.
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

    /// Waits until the first that is on its way is confirmed, or for ever if there is none. Nothing
    /// is lost if the wait is given up.
    pub(super) async fn acknowledged(&mut self) -> Result<(), StreamError> {
        let Some(acknowledgement) = self.in_flight.next().await else { return std::future::pending().await };
        let stored = acknowledgement.map_err(|error: PublishError| self.failed(&error))?;
        // `duplicate` proves nothing: it is also said of what was removed since.
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
