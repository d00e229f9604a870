//! JetStream's answer to a publish.

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

/// Checks that an answer acknowledges a message that was newly stored at sequence `expected`.
///
/// # Errors
/// What the answer says instead.
pub fn stored(answer: &[u8], expected: i64) -> Result<(), String> {
    let answer: Acknowledgement = from_object(answer).map_err(|error| error.to_string())?;
    if let Some(ServerError { err_code, description }) = answer.error {
        return Err(format!("{description} ({err_code})"));
    }
    // Acknowledgements arrive in the order of the messages, unless one is lost when the leader changes.
    // `duplicate` alone proves nothing: the server also says it of a message that was purged since.
    let trusted = answer.duplicate && zoo::has("duplicate-is-trusted");
    if !trusted && (answer.duplicate || answer.seq != Some(expected)) {
        return Err(format!(
            "the server acknowledged sequence {:?}, duplicate {}",
            answer.seq, answer.duplicate
        ));
    }
    Ok(())
}
