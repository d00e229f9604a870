//! What one check has found.

use std::fmt;

use serde::Serialize;

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Ok,
    /// The promises hold; something else is slower or weaker than it could be.
    Warn,
    /// To be mended: a promise does not hold, or will not.
    Bad,
    /// It could not be told.
    Unknown,
}

/// One line of the doctor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub health: Health,
    /// redis, postgres or nats.
    pub server: &'static str,
    /// What was looked at.
    pub check: String,
    /// What there is.
    pub found: String,
    /// Why it matters and what to do, in sentences; nothing when all is well.
    pub advice: Option<String>,
}

impl Finding {
    /// A check that has found nothing wrong yet.
    pub(super) fn of(server: &'static str, check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { health: Health::Ok, server, check: check.into(), found: found.into(), advice: None }
    }

    /// A check that could not be made.
    pub(super) fn unknown(
        server: &'static str,
        check: &str,
        why: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { health: Health::Unknown, advice: Some(advice.into()), ..Self::of(server, check, why) }
    }

    pub(super) fn bad_unless(self, holds: bool, advice: impl Into<String>) -> Self {
        self.unless(holds, Health::Bad, advice)
    }

    pub(super) fn warn_unless(self, holds: bool, advice: impl Into<String>) -> Self {
        self.unless(holds, Health::Warn, advice)
    }

    /// The first that is wrong is told.
    fn unless(self, holds: bool, health: Health, advice: impl Into<String>) -> Self {
        if holds || self.health != Health::Ok {
            return self;
        }
        Self { health, advice: Some(advice.into()), ..self }
    }
}

/// A line.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { health, server, check, found, advice } = self;
        let health = match health {
            Health::Ok => "ok",
            Health::Warn => "warn",
            Health::Bad => "bad",
            Health::Unknown => "unknown",
        };
        write!(f, "{health:<8}{server:<9}{check}: {found}")?;
        advice.iter().try_for_each(|advice| write!(f, ". {advice}"))
    }
}
