//! A chain of messages in flight into the stream of replays.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::header::{NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::{Client, HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use crate::acknowledgement;
use crate::stream::StreamError;

/// Messages published and not yet acknowledged, at most.
const REPLAY_IN_FLIGHT_MAX: usize = 1_000;
/// For the acknowledgement of a message: as long as a relay waits for one.
const REPLAY_ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages of which each is stored only directly after the one before it, and the first only at the end that
/// the stream had when the chain began.
///
/// Each names the sequence and, but for the first, the message id that it expects to follow. The sequence alone
/// is not enough: if another writer took the place of the first message, the second would find the sequence
/// that it expects, and be stored without the first.
pub(super) struct Chain {
    nats: Client,
    stream: String,
    inbox: String,
    acknowledgements: Subscriber,
    /// When each message in flight was sent, the oldest first.
    in_flight: VecDeque<Instant>,
    /// Sequence and message id of the last message that was sent.
    sent: u64,
    sent_id: Option<String>,
    /// Sequence of the last message that was acknowledged.
    published: u64,
}

impl Chain {
    /// A chain after sequence `end`.
    ///
    /// # Errors
    /// When the client has no connection.
    pub(super) async fn new(nats: &Client, stream: String, end: u64) -> Result<Self, StreamError> {
        let inbox = nats.new_inbox();
        let subscribed = nats.subscribe(inbox.clone()).await;
        let acknowledgements = subscribed.map_err(|error| StreamError::new(&stream, &error))?;
        let (nats, in_flight) = (nats.clone(), VecDeque::new());
        Ok(Self {
            nats,
            stream,
            inbox,
            acknowledgements,
            in_flight,
            sent: end,
            sent_id: None,
            published: end,
        })
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
        let sent = self.nats.publish_with_reply_and_headers(subject, self.inbox.clone(), headers, body).await;
        sent.map_err(|error| StreamError::new(&self.stream, &error))?;
        self.in_flight.push_back(Instant::now());
        self.sent += 1;
        self.sent_id = id;
        Ok(())
    }

    /// Waits until the oldest message in flight is acknowledged, or for ever if there is none. Cancel safe:
    /// dropping the wait loses nothing.
    pub(super) async fn acknowledged(&mut self) -> Result<(), StreamError> {
        let Some(sent_at) = self.in_flight.front() else { return std::future::pending().await };
        let deadline = *sent_at + REPLAY_ACKNOWLEDGEMENT_TIMEOUT;
        let expected = self.published + 1;
        let said = loop {
            let answer = timeout_at(deadline, self.acknowledgements.next()).await;
            let answer = answer.map_err(|_| self.failed("no acknowledgement in time"))?;
            let answer = answer.ok_or_else(|| self.failed("the connection was closed"))?;
            if answer.status == Some(StatusCode::NO_RESPONDERS) {
                return Err(self.failed("no stream takes the subject"));
            }
            let said = acknowledgement::stored(&answer.payload, &self.stream, expected.cast_signed());
            if let Some(said) = said {
                break said;
            }
        };
        said.map_err(|reason| self.failed(&reason))?;
        self.in_flight.pop_front();
        self.published = expected;
        Ok(())
    }

    fn failed(&self, reason: &str) -> StreamError {
        StreamError::failed(&self.stream, reason)
    }
}
