//! The result of one check.

use std::fmt;

use serde::Serialize;

/// How well a checked property fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Ok,
    /// The guarantees hold; something else is slower or weaker than it could be.
    Warn,
    /// A guarantee is broken or at risk.
    Bad,
    /// The check could not be made.
    Unknown,
}

/// The result of one check: a line of the doctor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub health: Health,
    /// redis, postgres or nats; or events, for what becomes of them between these.
    pub server: &'static str,
    /// The property that was checked.
    pub check: String,
    /// Its value.
    pub found: String,
    /// Why it matters and what to do, in sentences; `None` exactly if the health is `Ok`.
    pub advice: Option<String>,
}

impl Finding {
    /// A result without a fault, so far.
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

    /// Keeps the first fault.
    fn unless(self, holds: bool, health: Health, advice: impl Into<String>) -> Self {
        if holds || self.health != Health::Ok {
            return self;
        }
        Self { health, advice: Some(advice.into()), ..self }
    }
}

/// One line, without its end.
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
