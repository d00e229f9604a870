//! Names of runs.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use ulid::Ulid;

/// The name of a run: 1 to 48 letters, digits and hyphens, so that it is one token of a subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct RunId(String);

/// The text is not a name of a run.
#[derive(Debug, thiserror::Error)]
#[error("must be 1 to 48 letters, digits and hyphens")]
pub struct RunIdError;

impl FromStr for RunId {
    type Err = RunIdError;

    fn from_str(text: &str) -> Result<Self, RunIdError> {
        let fits = (1..=48).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if fits { Ok(Self(text.to_owned())) } else { Err(RunIdError) }
    }
}

impl RunId {
    /// A new, unique name.
    #[must_use]
    pub fn generate() -> Self {
        Self(Ulid::generate().to_string())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject filter of the run, which matches nothing else.
    #[must_use]
    pub fn subjects(&self) -> String {
        format!("replay.{self}.>")
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
