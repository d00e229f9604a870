//! Objects of JSON in the bodies of requests.

use serde::de::DeserializeOwned;

use crate::ids::FieldProblem;

/// Reads an object. (serde's derived `Deserialize` also accepts an array as a struct, field by field; this does not.)
///
/// # Errors
/// Names the field that is missing, unknown or of another type; `body` if the bytes are not an object of JSON.
pub fn read_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FieldProblem> {
    // What begins like another value of JSON.
    if bytes.trim_ascii_start().first().is_some_and(|first| b"[\"-0123456789tfn".contains(first)) {
        return Err(FieldProblem::new("body", "must be an object"));
    }
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut parser).map_err(|error| {
        let path = error.path().to_string();
        field_problem(&path, &error.into_inner())
    })?;
    parser.end().map_err(|error| field_problem(".", &error))?;
    Ok(value)
}

/// What serde calls a type, which callers of the API do not know, and what it is for them.
const WORDS: [(&str, &str); 2] = [
    ("expected i64", "expected an integer"),
    (
        "expected an RFC3339-formatted `OffsetDateTime`",
        "expected a time of RFC 3339, such as 2026-11-20T18:00:00Z",
    ),
];

/// The message names a field that is missing or unknown; `path` leads to any other.
fn field_problem(path: &str, error: &serde_json::Error) -> FieldProblem {
    let message =
        WORDS.iter().fold(error.to_string(), |message, (theirs, ours)| message.replace(theirs, ours));
    let named = message
        .strip_prefix("missing field `")
        .or_else(|| message.strip_prefix("unknown field `"))
        .and_then(|rest| rest.split('`').next());
    let path = if [".", "?"].contains(&path) { "body" } else { path };
    let field = [named, Some(path)].into_iter().flatten().find(|name| !name.is_empty()).unwrap_or("body");
    FieldProblem::new(field, message.clone())
}
