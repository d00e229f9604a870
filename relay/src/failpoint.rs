//! Points at which a test lets a process end or stand still. Without the feature `failpoints` nothing of it is
//! in the program.
//!
//! The environment says what happens where: `FAILPOINTS=relay.sent=crash,relay.read=stall:2000@3` ends the
//! process when it has first sent something, and lets it wait for two seconds when it reads for the third time.

/// The points of this crate: who, and what he has just done. Other crates may have their own.
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

/// Says that a point is reached.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reached(_point: &'static str) -> std::future::Ready<()> {
    std::future::ready(())
}

#[cfg(feature = "failpoints")]
mod armed {
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
        /// Times that it is still to be reached.
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
            tracing::error!("FAILPOINTS={text} cannot be read");
            std::process::abort()
        })
    });

    /// Says that a point is reached.
    pub async fn reached(point: &'static str) {
        let Some(armed) = ARMED.iter().find(|armed| armed.point == point) else { return };
        if armed.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        tracing::error!("failpoint {point} fires");
        match armed.action {
            Action::Crash => std::process::abort(),
            Action::Stall(time) => tokio::time::sleep(time).await,
        }
    }
}
