//! Waiting for what is to become true: the only place that sleeps.

use std::time::Duration;

use tokio::time::{Instant, sleep};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Asks until there is an answer, and fails the test after `limit`.
pub(crate) async fn wait_for<T>(what: &str, limit: Duration, ask: impl AsyncFnMut() -> Option<T>) -> T {
    within(limit, ask).await.unwrap_or_else(|| panic!("{what}: not within {limit:?}"))
}

/// Asks until it is so, and fails the test after `limit`.
pub(crate) async fn wait_until(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    wait_for(what, limit, async || holds().await.then_some(())).await;
}

/// Asks until there is an answer, or `limit` has passed.
pub(super) async fn within<T>(limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let answer = ask().await;
        if answer.is_some() || Instant::now() >= deadline {
            return answer;
        }
        sleep(POLL_INTERVAL).await;
    }
}
