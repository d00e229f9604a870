//! `JetStream`'s answer to a publish.
//!
//! The stream sends it to the reply subject of the message. Every subscriber of the message's subject sees that reply
//! subject and may answer there as well. The relay ignores an answer that is not an acknowledgement of its stream.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::strict::from_object;
use crate::zoo;

/// What a stream says to a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The stream holds the message at this sequence. `duplicate`: the server recognised the message id.
    Stored { sequence: i64, duplicate: bool },
    /// The stream does not hold it.
    Refused { code: u64, description: String },
}

#[derive(Deserialize)]
struct Acknowledgement<'a> {
    stream: Option<String>,
    seq: Option<i64>,
    #[serde(default)]
    duplicate: bool,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ServerError {
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Reads an answer; `None` if it is no acknowledgement of `stream`.
pub(crate) fn read(answer: &[u8], stream: &str) -> Option<Said> {
    let Acknowledgement { stream: named, seq, duplicate, error } = from_object(answer).ok()?;
    if named.as_ref().is_some_and(|named| named != stream) {
        return None;
    }
    match error {
        Some(error) => {
            let ServerError { err_code: code, description } = from_object(error.get().as_bytes()).ok()?;
            Some(Said::Refused { code, description })
        }
        None => named.and(seq).map(|sequence| Said::Stored { sequence, duplicate }),
    }
}

/// Whether an answer acknowledges that a message was newly stored in `stream` at sequence `expected`; `None` if it is
/// no acknowledgement of this stream.
///
/// # Errors
/// What the stream says instead.
#[must_use]
pub fn stored(answer: &[u8], stream: &str, expected: i64) -> Option<Result<(), String>> {
    Some(match read(answer, stream)? {
        Said::Refused { code, description } => Err(format!("{description} ({code})")),
        // Acknowledgements arrive in the order of the messages, unless one is lost when the leader changes.
        // `duplicate` alone proves nothing: the server also says it of a message that was purged since.
        Said::Stored { sequence, duplicate } => {
            let trusted = duplicate && zoo::has("duplicate-is-trusted");
            if !trusted && (duplicate || sequence != expected) {
                Err(format!("the server acknowledged sequence {sequence}, duplicate {duplicate}"))
            } else {
                Ok(())
            }
        }
    })
}
