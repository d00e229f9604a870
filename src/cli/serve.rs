//! `coupon serve`: a process that plays roles until it is stopped.

use std::collections::BTreeSet;

use anyhow::Context as _;
use clap::Args;

use super::ended::Ended;
use super::stop;
use crate::app::{self, Listeners};
use crate::config::{Config, Needs, Role};
use crate::http::server;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What this process does: some of api, relay, project, separated by commas; all if not given.
    #[arg(long, value_delimiter = ',')]
    roles: Vec<Role>,
}

impl Arguments {
    fn roles(&self) -> BTreeSet<Role> {
        if self.roles.is_empty() { Role::ALL.into() } else { self.roles.iter().copied().collect() }
    }

    /// A relay has nothing to do with the gate. The API issues there, and projectors audit it.
    pub(super) fn needs(&self) -> Needs {
        if self.roles() == [Role::Relay].into() { Needs::PostgresAndNats } else { Needs::All }
    }
}

pub(super) async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<Ended> {
    let roles = arguments.roles();
    let listener = if roles.contains(&Role::Api) || config.listens_without_api {
        let listener = server::listen(config.http);
        Some(listener.with_context(|| format!("listen on HTTP_ADDR {}", config.http))?)
    } else {
        None
    };
    let monitor = config
        .monitor
        .map(|address| server::listen(address).with_context(|| format!("listen on MONITOR_ADDR {address}")));
    log_start(&roles, config);
    let listeners = Listeners { http: listener, monitor: monitor.transpose()? };
    app::serve(config, &roles, listeners, stop::on_signal()?).await?;
    tracing::info!("coupon stopped");
    Ok(Ended::Done)
}

/// One line of what starts here. Addresses are without logins.
fn log_start(roles: &BTreeSet<Role>, config: &Config) {
    let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        roles = roles.join(","),
        shards = config.shards,
        deployment = %config.deployment,
        postgres = %config.database,
        redis = %config.redis,
        nats = %config.nats,
        "coupon starts"
    );
}
