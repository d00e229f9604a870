//! How a command ended, and the exit code for it.

use std::io;

use outbox_relay::reason::reason_of;
use outbox_relay::replay::{ReplayError, RunId};

use crate::client::{ApiError, ApiFailure};
use crate::config::ConfigError;

/// The exit codes, and when `coupon` ends with each.
pub(super) const CODES: [(u8, &str); 9] = [
    (0, "done; audit, rebuild and demo: balanced; doctor: nothing is bad"),
    (
        1,
        "failed, also if SHARDS or DEPLOYMENT does not fit the database; audit, rebuild and demo: not balanced; doctor: something is bad",
    ),
    (
        2,
        "wrong usage or configuration, found before anything connects, or a question that was not answered with yes; audit and doctor: could not tell",
    ),
    (3, "replay: stopped or cancelled; grant: stopped"),
    (4, "replay: another replay is running"),
    (5, "replay: no event matches"),
    (6, "commands that call the API: it refuses the token (401, 403)"),
    (7, "commands that call the API: it knows no such thing (404), or no coupon has the code"),
    (
        8,
        "commands that call the API: it does not answer or cannot serve now (408, 429, 5xx), of a grant also to some lines alone; a later retry may succeed",
    ),
];

/// How a command ended.
#[derive(Debug)]
pub enum Ended {
    /// What was asked for is done, and nothing is wrong.
    Done,
    /// Something is missing, too much or different; standard output says what.
    NotBalanced,
    /// A check of the doctor is bad; standard output says which.
    Unhealthy,
    Failed(anyhow::Error),
    /// Nothing was tried.
    Misconfigured(ConfigError),
    /// The arguments ask for nothing that can be done. Nothing was tried.
    WrongUsage(String),
    /// The question before a change was not answered with yes. Nothing was changed.
    Declined,
    /// The audit or the doctor could not read all that its judgement needs.
    CouldNotTell(anyhow::Error),
    /// A replay was told to stop, before or after its run began.
    Stopped(Option<RunId>),
    /// Somebody cancelled the replay's run.
    Cancelled(RunId),
    /// A grant was told to stop; the text says how to go on.
    Interrupted(String),
    /// Lines of a grant have no answer; the text says what to do.
    Unanswered(String),
    /// One replay runs at a time, and another one does.
    Busy(ReplayError),
    /// No coupon has the code that was asked for.
    NoSuchCode,
    /// A replay has nothing to publish; the text says why. No run was recorded.
    NothingSelected(String),
}

impl Ended {
    /// The exit code: see [`crate::cli`].
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotBalanced | Self::Unhealthy => 1,
            Self::Failed(error) => code_of(error),
            Self::Misconfigured(_) | Self::WrongUsage(_) | Self::Declined | Self::CouldNotTell(_) => 2,
            Self::Stopped(_) | Self::Cancelled(_) | Self::Interrupted(_) => 3,
            Self::Busy(_) => 4,
            Self::NothingSelected(_) => 5,
            Self::NoSuchCode => 7,
            Self::Unanswered(_) => 8,
        }
    }

    /// What standard error says about it, if standard output has not said it.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        match self {
            Self::Done | Self::NotBalanced | Self::Unhealthy => None,
            Self::Failed(error) | Self::CouldNotTell(error) if nobody_reads(error) => None,
            Self::Failed(error) | Self::CouldNotTell(error) => Some(reason_of(error.as_ref())),
            Self::Misconfigured(error) => Some(error.to_string()),
            Self::WrongUsage(problem) | Self::Interrupted(problem) | Self::Unanswered(problem) => {
                Some(problem.clone())
            }
            Self::Declined => Some("nothing is changed".to_owned()),
            Self::NoSuchCode => Some("no coupon has this code".to_owned()),
            Self::NothingSelected(why) => Some(format!("nothing to replay: {why}")),
            Self::Stopped(Some(run)) => {
                Some(format!("run {run} was stopped: `coupon replay --resume {run}` continues it"))
            }
            Self::Stopped(None) => Some("stopped before anything was published".to_owned()),
            Self::Cancelled(run) => Some(format!("run {run} was cancelled")),
            Self::Busy(error) => Some(error.to_string()),
        }
    }
}

/// The exit code for a failure, by what a caller of the API can do about it.
fn code_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref().map(ApiError::failure) {
        None | Some(ApiFailure::Refused) => 1,
        Some(ApiFailure::Token) => 6,
        Some(ApiFailure::NotFound) => 7,
        Some(ApiFailure::Unavailable) => 8,
    }
}

/// Whether the reader of standard output has left, as in `coupon audit | head`.
fn nobody_reads(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_one_of_the_table() {
        let run: RunId = "run".parse().unwrap_or_else(|_| RunId::generate());
        let all = [
            Ended::Done,
            Ended::NotBalanced,
            Ended::Unhealthy,
            Ended::Failed(anyhow::anyhow!("it failed")),
            Ended::CouldNotTell(anyhow::anyhow!("no answer")),
            Ended::Stopped(None),
            Ended::Cancelled(run),
            Ended::Busy(ReplayError::Busy { run: None }),
            Ended::WrongUsage("no".to_owned()),
            Ended::Declined,
            Ended::NoSuchCode,
            Ended::NothingSelected("none".to_owned()),
            Ended::Interrupted("stopped".to_owned()),
            Ended::Unanswered("no answer".to_owned()),
        ];
        let codes = all.each_ref().map(Ended::code);
        assert_eq!(codes, [0, 1, 1, 1, 2, 3, 3, 4, 2, 2, 7, 5, 3, 8]);
        let refused = |status| ApiError::Refused { status, problem: "no".to_owned() };
        let of = |error: ApiError| Ended::Failed(anyhow::Error::from(error).context("ask the API")).code();
        let codes = [400, 401, 403, 404, 409, 429, 500, 503].map(|status| of(refused(status)));
        assert_eq!(codes, [1, 6, 6, 7, 1, 8, 8, 8]);
        assert_eq!(of(ApiError::NoAnswer("silence".to_owned())), 8);
        for ended in all {
            assert!(CODES.iter().any(|(code, _)| *code == ended.code()), "{ended:?}");
        }
    }
}
