//! What made a request fail, for the log alone.

use std::error::Error;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tracing::Span;

use super::problem_kind::ProblemKind;
use super::route::Route;
use crate::cause::Traceparent;
use crate::trouble::Spaced;

/// The failures of requests that were logged as warnings, by operation, those of traces that are recorded apart. The log is
/// one for the process, and so are these.
static LOGGED: LazyLock<Mutex<Spaced<(&'static str, bool)>>> = LazyLock::new(Mutex::default);

/// The time between two warnings about requests to one route, at least.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// The same where traces are recorded: the caller looks for each in the log, but any caller may say so of all.
const TRACED_LOG_INTERVAL: Duration = Duration::from_millis(100);

/// What made a request fail. It travels in the extensions of the answer.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    kind: ProblemKind,
    what: &'static str,
    error: Arc<dyn Error + Send + Sync>,
    /// Whether it is logged only for a request whose trace is recorded.
    only_sampled: bool,
}

impl Failure {
    pub(super) fn new(
        kind: ProblemKind,
        what: &'static str,
        error: impl Error + Send + Sync + 'static,
        only_sampled: bool,
    ) -> Self {
        Self { kind, what, error: Arc::new(error), only_sampled }
    }

    /// Logs it: a fault of this program or of the schema as an error, each one, because its caller was told that the log has
    /// the cause; else as a warning. Of those, one a second of each route, and ten a second whose traces are recorded, each
    /// with the number of those left out.
    pub(super) fn log(
        &self,
        route: &'static Route,
        trace: Option<&Traceparent>,
        span: impl FnOnce() -> Span,
    ) {
        let error = &*self.error as &dyn Error;
        if self.kind == ProblemKind::Internal {
            return span().in_scope(|| tracing::error!(error, "{}", self.what));
        }
        let is_traced = trace.is_some_and(Traceparent::is_sampled);
        if self.only_sampled && !is_traced {
            return;
        }
        let interval = if is_traced { TRACED_LOG_INTERVAL } else { LOG_INTERVAL };
        let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = logged.is_due((route.operation, is_traced), interval);
        drop(logged);
        if let Some(left_out) = left_out {
            let left_out = (left_out > 0).then_some(left_out);
            span().in_scope(|| tracing::warn!(error, left_out, "{}", self.what));
        }
    }
}
