//! The `AsyncAPI` document: streams, subjects and events for programs, made of the types of [`event`](crate::event).

mod messages;

use std::sync::LazyLock;

use outbox_relay::dead::{ATTEMPTS_HEADER, PROJECTION_HEADER, REASON_HEADER};
use outbox_relay::event::{EPOCH_HEADER, EVENT_ID_HEADER, POSITION_HEADER, REQUEST_ID_HEADER, SHARD_HEADER};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use self::messages::{CAMPAIGN, COUPON, MESSAGES, Message};
use crate::event::{KINDS, OUTLET};
use crate::ids::ULID_PATTERN;

/// The media type of the body of an event.
const CLOUD_EVENT: &str = "application/cloudevents+json";
/// A whole number in a header, such as a position.
const NUMBER_PATTERN: &str = "^(0|[1-9][0-9]*)$";

/// The document, as JSON.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));

/// The `AsyncAPI` document of all events, as JSON in several lines.
#[must_use]
pub fn asyncapi() -> &'static str {
    &DOCUMENT
}

fn document() -> Value {
    let named = |name: &str, value: Value| (name.to_owned(), value);
    let mut channels: Map<String, Value> = MESSAGES.iter().map(|one| named(one.kind, channel(one))).collect();
    channels.insert("replays".to_owned(), replays());
    channels.insert("dead".to_owned(), dead());
    let mut schemas: Map<String, Value> = MESSAGES.iter().map(|one| named(one.kind, payload(one))).collect();
    schemas.insert("headers".to_owned(), headers());
    let mut messages: Map<String, Value> = MESSAGES.iter().map(|one| named(one.kind, message(one))).collect();
    messages.insert("deadLetter".to_owned(), dead_letter());
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "coupon-dispatcher",
            "version": env!("CARGO_PKG_VERSION"),
            "description": format!(
                "Each shard has a stream {}-<shard> of NATS JetStream, which keeps every event, each once, in the order of \
                 commits. The data of a type never changes in a way that breaks a reader; fields may be added, so ignore those \
                 that you do not know.", OUTLET.stream),
            "license": { "name": env!("CARGO_PKG_LICENSE") },
        },
        "defaultContentType": CLOUD_EVENT,
        "servers": { "nats": {
            "host": "{host}", "protocol": "nats", "description": "The servers of NATS_URL, with JetStream.",
            "variables": { "host": { "default": "127.0.0.1:4222", "description": "Host and port." } },
        } },
        "channels": channels,
        "operations": operations(),
        "components": { "messages": messages, "schemas": schemas },
    })
}

/// A reference within the document.
fn reference(path: &str) -> Value {
    json!({ "$ref": format!("#/{path}") })
}

/// The subjects of a type.
fn channel(Message { kind, summary, .. }: &Message) -> Value {
    json!({
        "address": format!("{}.{kind}.{{campaign_id}}.{{shard}}", OUTLET.subjects),
        "summary": summary,
        "description": format!("In the stream {}-<shard>. A filter must lie within {}.*.*.<shard>.", OUTLET.stream, OUTLET.subjects),
        "messages": { kind.to_owned(): reference(&format!("components/messages/{kind}")) },
        "parameters": { "campaign_id": campaign_id(), "shard": shard() },
    })
}

/// The subjects of replays.
fn replays() -> Value {
    let messages = MESSAGES
        .iter()
        .map(|one| (one.kind.to_owned(), reference(&format!("components/messages/{}", one.kind))));
    json!({
        "address": "replay.{run}.{type}.{campaign_id}.{shard}",
        "summary": "Events that an operator has replayed, in a subject space of the run.",
        "description": format!("In the stream {}, for a week. An empty message on replay._.<run> marks a cancelled run.", OUTLET.replay_stream()),
        "messages": messages.collect::<Map<_, _>>(),
        "parameters": {
            "run": { "description": "The name of the run." },
            "type": { "description": "The type of the event.", "enum": KINDS },
            "campaign_id": campaign_id(), "shard": shard(),
        },
    })
}

/// The subjects of dead letters.
fn dead() -> Value {
    json!({
        "address": format!("dead.{}.{{projection}}.{{shard}}.{{position}}", OUTLET.subjects),
        "summary": "Events that a projection of this service could not apply.",
        "description": format!("In the stream {}.", OUTLET.dead_stream()),
        "messages": { "deadLetter": reference("components/messages/deadLetter") },
        "parameters": {
            "projection": { "description": "The name of the projection." },
            "shard": shard(),
            "position": { "description": "The position of the event in its shard." },
        },
    })
}

fn campaign_id() -> Value {
    json!({ "description": "The ULID of the campaign.", "examples": [CAMPAIGN] })
}

fn shard() -> Value {
    json!({ "description": "The shard of the campaign, from 0.", "default": "0" })
}

/// What this service does with its channels: it sends.
fn operations() -> Map<String, Value> {
    let sends = |operation: &str, channel: &str, summary: &str| {
        let channel = reference(&format!("channels/{channel}"));
        (operation.to_owned(), json!({ "action": "send", "channel": channel, "summary": summary }))
    };
    let publishes = MESSAGES.iter().map(|one| sends(one.operation, one.kind, one.summary));
    let others = [
        sends("replay", "replays", "An operator replays events."),
        sends("park", "dead", "A projection parks an event that it cannot apply."),
    ];
    publishes.chain(others).collect()
}

fn message(message @ Message { kind, summary, example, .. }: &Message) -> Value {
    let id = "01M7WFKGE14NWN561KVXBYTJTZ";
    let is_about_campaign = kind.starts_with("campaign-");
    let subject = if is_about_campaign { CAMPAIGN } else { COUPON };
    json!({
        "name": full_type(message),
        "summary": summary,
        "contentType": CLOUD_EVENT,
        "headers": reference("components/schemas/headers"),
        "payload": reference(&format!("components/schemas/{kind}")),
        "examples": [{
            "headers": { "Nats-Msg-Id": id, SHARD_HEADER: "0", POSITION_HEADER: "7", "content-type": CLOUD_EVENT },
            "payload": {
                "specversion": "1.0", "id": id, "source": OUTLET.source, "type": full_type(message), "subject": subject,
                "time": "2026-11-27T18:00:01.25Z", "datacontenttype": "application/json", "data": example(),
            },
        }],
    })
}

/// The type as the body has it.
fn full_type(message: &Message) -> String {
    format!("{}.{}.v1", OUTLET.types, message.kind)
}

/// The schema of a body: a `CloudEvents` event with the data of its type. It names what
/// [`body`](outbox_relay::event::StoredEvent::body) writes.
fn payload(message: &Message) -> Value {
    // AsyncAPI 3.0 reads the dialect of draft 7.
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let data = (message.data)(settings.into_generator());
    let word = |word: &str| json!({ "type": "string", "const": word });
    let ulid = json!({ "type": "string", "pattern": ULID_PATTERN });
    let mut properties = json!({
        "specversion": word("1.0"),
        "id": ulid,
        "source": word(OUTLET.source),
        "type": word(&full_type(message)),
        "subject": ulid,
        "time": { "type": "string", "format": "date-time" },
        "datacontenttype": word("application/json"),
        "data": data,
    });
    for (name, about) in [
        ("id", "ULID of the event; replays and epochs keep it."),
        ("subject", "ULID of the coupon, or of the campaign."),
        ("time", "When the event was appended."),
    ] {
        properties[name]["description"] = about.into();
    }
    let required = names(&properties);
    json!({ "type": "object", "description": message.summary, "required": required, "properties": properties })
}

/// The schema of the headers of an event.
fn headers() -> Value {
    let ulid = ULID_PATTERN.trim_end_matches('$');
    json!({
        "type": "object",
        "required": ["Nats-Msg-Id", SHARD_HEADER, POSITION_HEADER, "content-type"],
        "properties": {
            "Nats-Msg-Id": { "type": "string", "pattern": format!("{ulid}(\\..+)?$"),
                "description": "The event's id; from epoch 1 on followed by .<epoch>; in a replay by .<run>." },
            SHARD_HEADER: { "type": "string", "pattern": NUMBER_PATTERN, "description": "The shard of the event." },
            POSITION_HEADER: { "type": "string", "pattern": NUMBER_PATTERN,
                "description": "The position of the event in its shard: from 1, without gaps." },
            EPOCH_HEADER: { "type": "string", "pattern": NUMBER_PATTERN,
                "description": "The epoch of the position; 0 if the header is missing." },
            EVENT_ID_HEADER: { "type": "string", "pattern": ULID_PATTERN,
                "description": "The event's id, in replays." },
            "content-type": { "type": "string", "const": CLOUD_EVENT },
            "traceparent": { "type": "string",
                "description": "The W3C trace context of the request that caused the event, if it had one." },
            REQUEST_ID_HEADER: { "type": "string",
                "description": "The id of the request that caused the event; missing if none did." },
        },
    })
}

fn dead_letter() -> Value {
    let text = |about: &str| json!({ "type": "string", "description": about });
    let number = |about: &str| json!({ "type": "string", "pattern": NUMBER_PATTERN, "description": about });
    let properties = json!({
        "Nats-Msg-Id": text("The event's id, followed by a point and the name of the projection."),
        EVENT_ID_HEADER: { "type": "string", "pattern": ULID_PATTERN, "description": "The event's id." },
        SHARD_HEADER: number("The shard of the event."),
        POSITION_HEADER: number("The position of the event in its shard."),
        PROJECTION_HEADER: text("The name of the projection."),
        REASON_HEADER: text("Why the projection could not apply the event, in one line."),
        ATTEMPTS_HEADER: number("How often it tried."),
    });
    json!({
        "name": "dead-letter",
        "summary": "The body of an event, as it was published. Its data may be what the projection could not read.",
        "contentType": CLOUD_EVENT,
        "headers": { "type": "object", "required": names(&properties), "properties": properties },
        "payload": { "type": "object" },
    })
}

/// The names of the members of an object.
fn names(object: &Value) -> Vec<&String> {
    object.as_object().into_iter().flat_map(Map::keys).collect()
}
