//! What JetStream answers to a publish.

use serde::Deserialize;

use crate::strict::from_object;
use crate::zoo;

#[derive(Deserialize)]
struct Acknowledgement {
    seq: Option<i64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<ServerError>,
}

#[derive(Deserialize)]
struct ServerError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Whether an answer says that the message is stored at sequence `expected`, and was not before.
///
/// # Errors
/// With what it says instead.
pub fn stored(answer: &[u8], expected: i64) -> Result<(), String> {
    let answer: Acknowledgement = from_object(answer).map_err(|error| error.to_string())?;
    if let Some(ServerError { err_code, description }) = answer.error {
        return Err(format!("{description} ({err_code})"));
    }
    // They come in the order of the messages, unless one is lost at a change of leaders.
    // `duplicate` alone proves nothing: it is also said of what was purged since.
    let trusted = answer.duplicate && zoo::has("duplicate-is-trusted");
    if !trusted && (answer.duplicate || answer.seq != Some(expected)) {
        return Err(format!("the server says sequence {:?}, duplicate {}", answer.seq, answer.duplicate));
    }
    Ok(())
}
