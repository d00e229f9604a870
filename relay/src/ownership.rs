//! Whose a stream is: its metadata name the deployment that publishes to it (NATS 2.10 and newer). A stream that
//! names none may belong to any deployment: it is older than this rule, or its server keeps no metadata. A durable
//! consumer names its deployment in its description, which servers of any version keep.

use std::collections::HashMap;

use async_nats::Client;
use async_nats::jetstream::{self, consumer, stream};
use serde_json::{Map, Value, json};

use crate::outlet::Outlet;

/// The key of the name.
const NAME_KEY: &str = "deployment";
/// The key of the id.
const ID_KEY: &str = "deployment-id";

/// How the description of a durable consumer begins, before the name and the id.
const DESCRIPTION: &str = "of deployment ";

/// The stream, or the durable consumer on it, belongs to another deployment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "stream {stream} belongs to deployment {theirs}, and this is deployment {ours}: both publish to this NATS, and this \
     one has changed nothing there. Give each deployment a NATS account or a NATS server of its own"
)]
pub struct Foreign {
    pub stream: String,
    /// The deployment that the stream names.
    pub theirs: String,
    /// The deployment of the outlet.
    pub ours: String,
}

/// What the metadata of a stream say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// They name no deployment, or the outlet has none.
    Unknown,
    /// They name the deployment of the outlet.
    Ours,
    Foreign(Foreign),
}

/// Whose the stream with this configuration is.
#[must_use]
pub fn owner(outlet: &Outlet, config: &stream::Config) -> Owner {
    let Some(ours) = outlet.deployment else { return Owner::Unknown };
    let [name, id] = [NAME_KEY, ID_KEY].map(|key| config.metadata.get(key));
    if name.is_none() && id.is_none() {
        return Owner::Unknown;
    }
    // An administrator may have written one of them alone.
    let fits =
        name.is_none_or(|name| name == ours.name.as_str()) && id.is_none_or(|id| *id == ours.id.to_string());
    if fits {
        return Owner::Ours;
    }
    let [name, id] = [name, id].map(|part| part.map_or("unknown", String::as_str));
    Owner::Foreign(Foreign {
        stream: config.name.clone(),
        theirs: format!("{name} (id {id})"),
        ours: ours.to_string(),
    })
}

/// The metadata of a new stream.
pub(crate) fn metadata(outlet: &Outlet) -> HashMap<String, String> {
    let pairs = outlet.deployment.map(|deployment| {
        [(NAME_KEY.to_owned(), deployment.name.to_string()), (ID_KEY.to_owned(), deployment.id.to_string())]
    });
    pairs.into_iter().flatten().collect()
}

/// The description of a new durable consumer.
pub(crate) fn description(outlet: &Outlet) -> Option<String> {
    outlet.deployment.map(|deployment| format!("{DESCRIPTION}{deployment}"))
}

/// Makes sure that a durable consumer on `stream` belongs to no other deployment.
pub(crate) fn refuse_foreign_consumer(
    outlet: &Outlet,
    stream: String,
    config: &consumer::Config,
) -> Result<(), Foreign> {
    let theirs = config.description.as_deref().and_then(|text| text.strip_prefix(DESCRIPTION));
    let (Some(theirs), Some(ours)) = (theirs, outlet.deployment) else { return Ok(()) };
    let (theirs, ours) = (theirs.to_owned(), ours.to_string());
    if theirs == ours { Ok(()) } else { Err(Foreign { stream, theirs, ours }) }
}

/// Writes the deployment of the outlet into the metadata of each of these streams that exists and names none. If that
/// fails, the log says so, and the stream stays as it is.
pub(crate) async fn adopt(nats: &Client, outlet: &Outlet, streams: &[String]) {
    // Older servers ignore metadata.
    if outlet.deployment.is_none() || !nats.is_server_compatible(2, 10, 0) {
        return;
    }
    for stream in streams {
        match adopt_one(nats, outlet, stream).await {
            Ok(true) => {
                tracing::info!(stream, "the stream named no owner: its metadata now name this deployment");
            }
            Ok(false) => {}
            Err(reason) => tracing::warn!(
                stream,
                reason,
                "the metadata of the stream cannot be changed to name this deployment, so another deployment would not \
                 notice that it is not its own"
            ),
        }
    }
}

/// Returns whether the stream had no owner and has one now. The configuration goes back as it came, with fields that
/// this client does not know.
async fn adopt_one(nats: &Client, outlet: &Outlet, stream: &str) -> Result<bool, String> {
    let context = jetstream::new(nats.clone());
    let ask = async |request: &str, body: &Value| {
        let answer: Result<Value, _> = context.request(format!("{request}.{stream}"), body).await;
        answer.map_err(|error| error.to_string())
    };
    let mut config = ask("STREAM.INFO", &Value::Null).await?["config"].take();
    let Some(fields) = config.as_object_mut() else { return Ok(false) }; // there is no such stream
    let known = fields.entry("metadata").or_insert_with(|| json!({}));
    let Some(known) = known.as_object_mut() else { return Ok(false) };
    if known.contains_key(NAME_KEY) || known.contains_key(ID_KEY) {
        return Ok(false);
    }
    known.extend(metadata(outlet).into_iter().map(|(key, value)| (key, value.into())).collect::<Map<_, _>>());
    let answer = ask("STREAM.UPDATE", &config).await?;
    match answer["error"]["description"].as_str() {
        None => Ok(true),
        Some(refusal) => Err(refusal.to_owned()),
    }
}
