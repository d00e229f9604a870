//! Points at which a test makes a process crash or pause. Without the feature `failpoints` the program contains
//! none of this.
//!
//! The environment says what happens where: with `FAILPOINTS=relay.sent=crash,relay.read=stall:2000@3` the
//! process aborts when it has sent its first message, and pauses for 2,000 ms when it reads for the third time.

/// The points of this crate: `<task>.<what it has just done>`. Other crates may have their own.
pub const POINTS: [&str; 22] = [
    "relay.leads",
    "relay.found",
    "relay.read",
    "relay.sent",
    "relay.acknowledged",
    "projector.leads",
    "projector.fetched",
    "projector.applied",
    "projector.committed",
    "projector.acknowledged",
    "projector.wrote_letter",
    "projector.parked",
    "replay.begun",
    "replay.sent",
    "replay.acknowledged",
    "replay.published",
    "rebuild.made_tables",
    "rebuild.caught_up",
    "rebuild.swapped",
    "rebuild.committed",
    "dead.settled",
    "epoch.begun",
];

#[cfg(feature = "failpoints")]
pub use armed::reached;

/// Does nothing: the feature is off.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn reached(_point: &'static str) -> std::future::Ready<()> {
    std::future::ready(())
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::io::{self, Write as _};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    enum Action {
        Crash,
        Stall(Duration),
    }

    struct Armed {
        point: String,
        action: Action,
        /// Passes of this point before it fires.
        left: AtomicU32,
    }

    impl Armed {
        fn parse(text: &str) -> Option<Self> {
            let (point, what) = text.split_once('=')?;
            let (what, left) = what.split_once('@').unwrap_or((what, "1"));
            let action = match what.split_once(':') {
                None if what == "crash" => Action::Crash,
                Some(("stall", millis)) => Action::Stall(Duration::from_millis(millis.parse().ok()?)),
                _ => return None,
            };
            Some(Self { point: point.to_owned(), action, left: AtomicU32::new(left.parse().ok()?) })
        }
    }

    static ARMED: LazyLock<Vec<Armed>> = LazyLock::new(|| {
        let text = std::env::var("FAILPOINTS").unwrap_or_default();
        let armed = text.split(',').filter(|text| !text.is_empty());
        let armed: Option<_> = armed.map(Armed::parse).collect();
        armed.unwrap_or_else(|| {
            drop(writeln!(io::stderr(), "FAILPOINTS={text} cannot be read"));
            std::process::abort()
        })
    });

    /// Crashes or pauses here if the environment says so.
    pub async fn reached(point: &'static str) {
        let Some(armed) = ARMED.iter().find(|armed| armed.point == point) else { return };
        if armed.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        // Not into the log, whose thread an abort does not wait for.
        drop(writeln!(io::stderr(), "failpoint {point} fires"));
        match armed.action {
            Action::Crash => std::process::abort(),
            Action::Stall(time) => tokio::time::sleep(time).await,
        }
    }
}
