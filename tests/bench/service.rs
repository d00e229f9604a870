//! Private servers, and one process of the service with one open campaign.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use coupon_dispatcher::client::Client;
use coupon_dispatcher::config::Secret;
use coupon_dispatcher::servers::{Servers, free_port};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::process::{Child, Command};

use crate::support::{make_wal_files, wait_until};

/// The release build of this tree.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_coupon");
pub(crate) const TOKEN: &str = "a-token-for-the-bench";

#[derive(Debug)]
pub(crate) struct Service {
    /// Dropped, and so ended, before its servers.
    #[allow(dead_code, reason = "one benchmark only keeps the process, the others also observe it")]
    pub(crate) process: Child,
    pub(crate) servers: Servers,
    pub(crate) address: SocketAddr,
    pub(crate) campaign: String,
}

impl Service {
    /// Starts servers without data, migrates the database with `program`, and starts `program` on them, with further
    /// variables.
    pub(crate) async fn start(program: &Path, more: &[(&str, String)]) -> Result<Self> {
        let servers = Servers::start().await?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let command = |name| {
            let mut command = Command::new(program);
            command
                .arg(name)
                .env("DATABASE_URL", servers.database_url())
                .env("REDIS_URL", servers.redis_url())
                .env("NATS_URL", servers.nats_url())
                .env("HTTP_ADDR", address.to_string())
                .env("ADMIN_TOKEN", TOKEN)
                .env("RUST_LOG", "error")
                .envs(more.iter().map(|(name, value)| (name, value)))
                .kill_on_drop(true);
            command
        };
        let migrated = command("migrate").status().await.context("run `coupon migrate`")?;
        ensure!(migrated.success(), "`coupon migrate` failed: {migrated}");
        make_wal_files(&servers).await?;
        let process = command("serve").spawn()?;
        ready(address).await?;
        let campaign = create_campaign(address, 10_000_000, Duration::ZERO).await?;
        Ok(Self { process, servers, address, campaign })
    }
}

/// Waits until the service can issue.
pub(crate) async fn ready(address: SocketAddr) -> Result<()> {
    let client = client(address);
    wait_until(async || Ok(client.get("/readyz").await.is_ok())).await
}

pub(crate) fn client(address: SocketAddr) -> Client {
    Client::new(&format!("http://{address}"), Secret::from(TOKEN.to_owned()))
}

/// Creates a campaign that opens after `wait`.
pub(crate) async fn create_campaign(address: SocketAddr, quantity: i32, wait: Duration) -> Result<String> {
    let client = client(address);
    let opens_at = OffsetDateTime::now_utc() + wait;
    let body = json!({
        "name": "Bench", "merchant_id": "bench", "face_value": 100, "currency": "EUR", "quantity": quantity,
        "opens_at": opens_at.format(&Rfc3339)?,
        "closes_at": (opens_at + Duration::from_secs(86_400)).format(&Rfc3339)?,
        "coupon_valid_for": "P30D", "settle_on": "issue",
    });
    let campaign = client.post("/v1/campaigns", Some(&body)).await?;
    let id = campaign["id"].as_str().context("the campaign has no id")?.to_owned();
    client.post(&format!("/v1/campaigns/{id}/open"), None).await?;
    Ok(id)
}
