//! Logs on standard error.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// Starts them: as `RUST_LOG` says or, if it is not set, from `level` on.
pub(super) fn start(level: &str) {
    let default = || EnvFilter::new(format!("{level},async_nats=error"));
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| default()))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
