//! Logs on standard error, written by a thread of their own: nothing that serves waits until somebody reads them.

mod json;

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use outbox_relay::reason::reason_of;
use tokio::time::sleep;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{Directive, EnvFilter, filter_fn};
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::{FormatFields, layer};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{ConfigError, LOG_FORMAT, RUST_LOG};

/// The crates of this program. Below [`Level::INFO`] only these are logged: drivers print passwords there.
const OURS: [&str; 2] = ["coupon_dispatcher", "outbox_relay"];

/// It warns of parameters that it does not know, with their values, such as `sslpassword`. `Connections` names them.
const URL_PARSER: &str = "sqlx_postgres::options";

/// What Postgres says beside its answers. When it stops, it says so on each connection, and this program says it once.
const NOTICES: &str = "sqlx::postgres::notice";

/// Lines that wait to be written, at most: some megabytes. What does not fit is dropped, and counted.
const LINES_MAX: usize = 10_000;
/// How often dropped lines are looked for.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The logs, while it lives. When it is dropped, it writes what waits, for as long as standard error is read.
#[must_use]
pub(super) struct Logs(#[expect(dead_code, reason = "its end matters")] WorkerGuard);

/// Starts the logs: from `level` on, unless `RUST_LOG` says otherwise, in the format of `LOG_FORMAT`.
///
/// # Errors
/// When `RUST_LOG` is not a filter, or `LOG_FORMAT` is not a format.
pub(super) fn start(level: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Logs, ConfigError> {
    let given = RUST_LOG.value(&variable).unwrap_or_default();
    let filter = filter(&given, level).map_err(|problem| ConfigError::new(format!("RUST_LOG {problem}")));
    let is_json = match LOG_FORMAT.value(&variable).unwrap_or_default().as_str() {
        "text" => Ok(false),
        "json" => Ok(true),
        other => Err(ConfigError::new(format!("LOG_FORMAT {other:?} must be text or json"))),
    };
    let (filter, is_json) = match (filter, is_json) {
        (Ok(filter), Ok(is_json)) => (filter, is_json),
        (Err(error), other) => return Err(error.and(other.err())),
        (Ok(_), Err(error)) => return Err(error),
    };
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).finish(io::stderr());
    let dropped = writer.error_counter();
    let text =
        || layer().fmt_fields(Reasons).with_ansi(io::stderr().is_terminal()).with_writer(writer.clone());
    let lines = || layer().event_format(json::Lines).fmt_fields(json::NoText).with_writer(writer.clone());
    tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(may_be_logged))
        .with((!is_json).then(text))
        .with(is_json.then_some(json::Spans))
        .with(is_json.then(lines))
        .init();
    tokio::spawn(report(dropped));
    Ok(Logs(guard))
}

/// Reports lines that were dropped, as soon as there is room for the report.
async fn report(dropped: ErrorCounter) {
    let mut told = 0;
    loop {
        sleep(REPORT_INTERVAL).await;
        let count = dropped.dropped_lines();
        if count > told {
            tracing::warn!(
                count = count - told,
                "lines of this log were dropped: standard error was not read"
            );
            // The report may have been dropped itself.
            if dropped.dropped_lines() == count {
                told = count;
            }
        }
    }
}

/// Whatever `RUST_LOG` says.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let (level, target) = (*metadata.level(), metadata.target());
    (level <= Level::INFO && !target.starts_with(URL_PARSER)) || is_ours(target)
}

fn is_ours(target: &str) -> bool {
    target.split("::").next().is_some_and(|name| OURS.contains(&name))
}

/// The filter that `given` describes: levels and `target=level`, separated by commas. What it does not name is logged
/// from `level` on.
fn filter(given: &str, level: &str) -> Result<EnvFilter, String> {
    let (mut directives, mut has_level) = (Vec::new(), false);
    for part in given.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let is_level = part.parse::<LevelFilter>().is_ok();
        let directive =
            part.parse::<Directive>().ok().filter(|_| is_level || is_ours(part) || part.contains(['=', '[']));
        has_level |= is_level;
        let problem = || {
            format!(
                "{part:?} must be off, error, warn, info, debug, trace, or target=level such as outbox_relay=debug"
            )
        };
        directives.push(directive.ok_or_else(problem)?);
    }
    let default = if has_level { String::new() } else { format!("{level},async_nats=error,{NOTICES}=error") };
    let base = EnvFilter::builder().parse(default).map_err(|error| error.to_string())?;
    Ok(directives.into_iter().fold(base, EnvFilter::add_directive))
}

/// Fields as usual, but an error with its causes, each said once.
struct Reasons;

impl<'writer> FormatFields<'writer> for Reasons {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = ReasonVisitor(DefaultVisitor::new(writer, true));
        fields.record(&mut visitor);
        tracing_subscriber::field::VisitOutput::finish(visitor.0)
    }
}

struct ReasonVisitor<'writer>(DefaultVisitor<'writer>);

impl Visit for ReasonVisitor<'_> {
    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        // A line stays a line, whatever a server has put into the text of its error.
        let reason: String = reason_of(error).chars().flat_map(printable).collect();
        self.0.record_debug(field, &format_args!("{reason}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.record_str(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.record_debug(field, value);
    }
}

fn printable(letter: char) -> impl Iterator<Item = char> {
    let (kept, escaped) =
        if letter.is_control() { (None, Some(letter.escape_default())) } else { (Some(letter), None) };
    kept.into_iter().chain(escaped.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_filter_is_refused() {
        for given in ["nonsense", "info,nonsense", "outbox_relay=loud", "hyper", "=", "debug;info"] {
            assert!(filter(given, "info").is_err_and(|problem| problem.contains("must be")), "{given}");
        }
    }

    #[test]
    fn what_a_filter_does_not_name_is_logged_as_by_default() {
        let of = |given: &str| {
            filter(given, "info").map(|filter| {
                let mut parts: Vec<String> = filter.to_string().split(',').map(ToOwned::to_owned).collect();
                parts.sort();
                parts.join(",")
            })
        };
        for (given, directives) in [
            ("", "async_nats=error,info,sqlx::postgres::notice=error"),
            ("outbox_relay=debug", "async_nats=error,info,outbox_relay=debug,sqlx::postgres::notice=error"),
            (
                "outbox_relay::pipeline",
                "async_nats=error,info,outbox_relay::pipeline=trace,sqlx::postgres::notice=error",
            ),
            ("debug", "debug"),
            (" off , outbox_relay=warn", "off,outbox_relay=warn"),
            ("WARN", "warn"),
        ] {
            assert_eq!(of(given).as_deref(), Ok(directives), "{given}");
        }
    }
}
