//! Events: as a service appends them, as the outbox holds them, as a reader receives them.

use std::borrow::Cow;
use std::fmt::Write as _;

use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row as _};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use ulid::Ulid;
use uuid::Uuid;

use crate::in_time::InTime as _;
use crate::outlet::{Outlet, Shard};
use crate::strict::{from_object, id_of, number};

/// Header with the shard of an event.
pub const SHARD_HEADER: &str = "Outbox-Shard";
/// Header with the position of an event in its shard.
pub const POSITION_HEADER: &str = "Outbox-Position";
/// Header with the epoch of an event's position (see [`crate::epoch`]); 0 if it is missing. The pair of epoch
/// and position only grows.
pub const EPOCH_HEADER: &str = "Outbox-Epoch";
/// Header with the event's id, in replays and dead letters, where `Nats-Msg-Id` is another.
pub const EVENT_ID_HEADER: &str = "Outbox-Event-Id";
/// Header with the id of the request that caused the event, if there was one.
pub const REQUEST_ID_HEADER: &str = "Request-Id";

/// An event to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Identifies the event for ever; replays keep it.
    pub id: Ulid,
    /// One token of a subject, e.g. `issued`.
    pub kind: &'static str,
    /// The key under which the event is published, one token of a subject.
    pub key: String,
    /// What the event is about: `subject` of CloudEvents.
    pub subject: String,
    /// A JSON text of at most 64 KiB.
    pub data: String,
    /// W3C trace context of the request that caused the event.
    pub traceparent: Option<String>,
    /// The id of that request.
    pub request_id: Option<String>,
}

/// An event as a row of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    pub shard: Shard,
    pub position: i64,
    pub id: Ulid,
    pub kind: String,
    pub key: String,
    pub subject: String,
    pub data: String,
    pub traceparent: Option<String>,
    pub request_id: Option<String>,
    pub time: OffsetDateTime,
}

/// Reads columns by index, which saves a look-up of names for each row: shard, position, id, type, key,
/// subject, data, traceparent, request id, time.
impl FromRow<'_, PgRow> for StoredEvent {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            shard: Shard(row.try_get(0)?),
            position: row.try_get(1)?,
            id: row.try_get::<Uuid, _>(2)?.into(),
            kind: row.try_get(3)?,
            key: row.try_get(4)?,
            subject: row.try_get(5)?,
            data: row.try_get(6)?,
            traceparent: row.try_get(7)?,
            request_id: row.try_get(8)?,
            time: row.try_get(9)?,
        })
    }
}

impl StoredEvent {
    /// The events of a shard after position `after`, up to and including `until`. With both bounds the planner
    /// skips other partitions.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn between(
        connection: &mut PgConnection,
        shard: Shard,
        after: i64,
        until: i64,
    ) -> Result<Vec<Self>, sqlx::Error> {
        sqlx::query_as(
            "SELECT shard, position, event_id, type, key, subject, data::text AS data, traceparent, request_id, \
                    time \
             FROM outbox WHERE shard = $1 AND position > $2 AND position <= $3 ORDER BY position",
        )
        .bind(shard)
        .bind(after)
        .bind(until)
        .fetch_all(connection)
        .in_time()
        .await
    }

    /// The body of the message: a CloudEvents 1.0 event in structured JSON. `data` is copied byte for byte.
    #[must_use]
    pub fn body(&self, outlet: &Outlet) -> Bytes {
        // Ids, types and RFC 3339 times need no escaping; the subject may.
        let time = self.time.format(&Rfc3339).unwrap_or_default();
        let mut body = String::with_capacity(300 + self.data.len());
        let _ = write!(
            body,
            r#"{{"specversion":"1.0","id":"{}","source":"{}","type":"{}.{}.v1","subject":{},"time":"{time}","datacontenttype":"application/json","data":{}}}"#,
            self.id,
            outlet.source,
            outlet.types,
            self.kind,
            serde_json::Value::from(self.subject.as_str()),
            self.data,
        );
        body.into()
    }

    /// The event as a reader receives it.
    #[must_use]
    pub fn to_event(&self, outlet: &Outlet) -> Event {
        Event {
            position: self.position,
            id: self.id,
            kind: format!("{}.{}.v1", outlet.types, self.kind),
            time: self.time,
            data: self.data.clone().into(),
            body: self.body(outlet),
        }
    }

    /// The headers that every copy of this event carries.
    #[must_use]
    pub fn headers(&self, message_id: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, message_id);
        headers.insert(HeaderName::from_static(SHARD_HEADER), self.shard.to_string());
        headers.insert(HeaderName::from_static(POSITION_HEADER), self.position.to_string());
        headers.insert(HeaderName::from_static("content-type"), "application/cloudevents+json");
        if let Some(traceparent) = &self.traceparent {
            headers.insert(HeaderName::from_static("traceparent"), traceparent.as_str());
        }
        if let Some(request_id) = &self.request_id {
            headers.insert(HeaderName::from_static(REQUEST_ID_HEADER), request_id.as_str());
        }
        headers
    }
}

/// An event as a reader receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub position: i64,
    pub id: Ulid,
    /// The full type, e.g. `order.placed.v1`.
    pub kind: String,
    pub time: OffsetDateTime,
    /// A JSON text.
    pub data: Bytes,
    /// The whole message body: a CloudEvents 1.0 event in structured JSON.
    pub body: Bytes,
}

/// The fields of a body that a reader needs.
#[derive(Deserialize)]
struct CloudEvent<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(with = "time::serde::rfc3339")]
    time: OffsetDateTime,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Event {
    /// Parses a message body.
    ///
    /// # Errors
    /// When it is not a CloudEvents event in structured JSON, or its id is not a ULID.
    pub fn parse(position: i64, body: &Bytes) -> Result<Self, serde_json::Error> {
        let CloudEvent { id, kind, time, data } = from_object(body)?;
        let data = body.slice_ref(data.get().as_bytes());
        let id = id_of(&id).ok_or_else(|| serde_json::Error::custom("its id is no ULID"))?;
        Ok(Self { position, id, kind: kind.into_owned(), time, data, body: body.clone() })
    }
}

/// The epoch in a message's headers: 0 when there is none, `None` when the header is not a valid epoch.
#[must_use]
pub fn epoch_of(headers: Option<&HeaderMap>) -> Option<i32> {
    match headers {
        Some(headers) if headers.get(EPOCH_HEADER).is_some() => {
            number(headers, EPOCH_HEADER).filter(|epoch| *epoch >= 0)
        }
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() -> Result<(), Box<dyn std::error::Error>> {
        let stored = StoredEvent {
            shard: Shard(3),
            position: 7,
            id: Ulid::generate(),
            kind: "issued".to_owned(),
            key: "K".to_owned(),
            subject: "a \"quoted\" one".to_owned(),
            data: r#"{"number":1, "user_id":"\\\""}"#.to_owned(),
            traceparent: None,
            request_id: None,
            time: OffsetDateTime::UNIX_EPOCH,
        };
        let outlet = Outlet { stream: "S", subjects: "s", types: "thing", source: "/here", deployment: None };
        let body = stored.body(&outlet);
        let event = Event::parse(7, &body)?;
        assert_eq!((event.id, event.kind.as_str(), event.time), (stored.id, "thing.issued.v1", stored.time));
        assert_eq!(event.data, stored.data);
        let whole: serde_json::Value = serde_json::from_slice(&body)?;
        assert_eq!(whole["subject"], stored.subject.as_str());
        assert_eq!(whole["specversion"], "1.0");
        Ok(())
    }
}
