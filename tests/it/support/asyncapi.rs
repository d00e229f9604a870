//! Messages of NATS against the `AsyncAPI` document.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use async_nats::jetstream::Message;
use coupon_dispatcher::asyncapi::asyncapi;
use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::contract::resolve;

/// The document.
pub(crate) static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(asyncapi()).unwrap());

/// A judge for each message of each channel.
static JUDGES: LazyLock<BTreeMap<(String, String), Validator>> = LazyLock::new(|| {
    let channels = DOCUMENT["channels"].as_object().unwrap().iter();
    let pairs = channels.flat_map(|(channel, about)| {
        let names = about["messages"].as_object().unwrap().keys();
        names.map(move |name| (channel.clone(), name.clone()))
    });
    pairs.map(|pair| (pair.clone(), judge(&schema_of(&pair.0, &pair.1)))).collect()
});

/// A judge of values by a schema of draft 7, formats and all.
pub(crate) fn judge(schema: &Value) -> Validator {
    jsonschema::draft7::options().should_validate_formats(true).build(schema).unwrap()
}

/// What is wrong with a value.
pub(crate) fn faults(judge: &Validator, value: &Value) -> Vec<String> {
    judge.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// What the document promises of a message of a channel, as one schema: subject, headers and payload.
pub(crate) fn schema_of(channel: &str, name: &str) -> Value {
    let channel = &DOCUMENT["channels"][channel];
    let message = resolve(&DOCUMENT, &channel["messages"][name]);
    json!({
        "type": "object",
        "required": ["headers", "payload", "subject"],
        "properties": {
            "subject": { "type": "string", "pattern": pattern(channel) },
            "headers": resolve(&DOCUMENT, &message["headers"]),
            "payload": resolve(&DOCUMENT, &message["payload"]),
        },
    })
}

/// The address of a channel as a pattern.
fn pattern(channel: &Value) -> String {
    let parts = channel["address"].as_str().unwrap().split('.').map(|part| {
        let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else {
            return part.to_owned();
        };
        match channel["parameters"][name]["enum"].as_array() {
            Some(words) => {
                format!("({})", words.iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>().join("|"))
            }
            None => "[^.]+".to_owned(),
        }
    });
    format!("^{}$", parts.collect::<Vec<_>>().join("\\."))
}

/// A message as the schemas describe it.
pub(crate) fn as_told(message: &Message) -> Value {
    let headers = message.headers.as_ref().unwrap().iter();
    let headers: Map<String, Value> =
        headers.map(|(name, values)| (name.to_string(), values[0].as_str().into())).collect();
    let payload: Value = serde_json::from_slice(&message.payload).unwrap();
    json!({ "subject": message.subject.as_str(), "headers": headers, "payload": payload })
}

/// A message is what the document promises of it in this channel.
pub(crate) fn assert_described(channel: &str, name: &str, message: &Message) {
    let message = as_told(message);
    let faults = faults(&JUDGES[&(channel.to_owned(), name.to_owned())], &message);
    assert!(faults.is_empty(), "{faults:?}: {message:#}");
}
