//! Private servers, and one process of the service with one open campaign.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context as _, Result};
use coupon_dispatcher::client::Client;
use coupon_dispatcher::config::Secret;
use coupon_dispatcher::servers::Servers;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::process::{Child, Command};

use crate::support::{self, wait_until};

pub(crate) const TOKEN: &str = "a-token-for-the-bench";

#[derive(Debug)]
pub(crate) struct Service {
    /// Ended before its servers.
    #[allow(dead_code, reason = "one bench looks at its memory, another only keeps it")]
    pub(crate) process: Child,
    pub(crate) servers: Servers,
    pub(crate) address: SocketAddr,
    pub(crate) campaign: String,
}

impl Service {
    pub(crate) async fn start(batch_rows: Option<&str>) -> Result<Self> {
        let servers = support::servers().await?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let process = Command::new(env!("CARGO_BIN_EXE_coupon"))
            .arg("serve")
            .env("DATABASE_URL", servers.database_url())
            .env("REDIS_URL", servers.redis_url())
            .env("NATS_URL", servers.nats_url())
            .env("HTTP_ADDR", address.to_string())
            .env("ADMIN_TOKEN", TOKEN)
            .env("RUST_LOG", "error")
            .envs(batch_rows.map(|rows| ("BATCH_ROWS", rows)))
            .kill_on_drop(true)
            .spawn()?;
        let campaign = open_campaign(address).await?;
        Ok(Self { process, servers, address, campaign })
    }
}

async fn open_campaign(address: SocketAddr) -> Result<String> {
    let client = Client::new(&format!("http://{address}"), Secret::from(TOKEN.to_owned()));
    wait_until(async || Ok(client.get("/readyz").await.is_ok())).await?;
    let now = OffsetDateTime::now_utc();
    let body = json!({
        "name": "Bench", "merchant_id": "bench", "face_value": 100, "currency": "EUR", "quantity": 10_000_000,
        "opens_at": now.format(&Rfc3339)?, "closes_at": (now + Duration::from_secs(86_400)).format(&Rfc3339)?,
        "coupon_valid_for": "P30D", "settle_on": "issue",
    });
    let campaign = client.post("/v1/campaigns", Some(&body)).await?;
    let id = campaign["id"].as_str().context("the campaign has no id")?.to_owned();
    client.post(&format!("/v1/campaigns/{id}/open"), None).await?;
    Ok(id)
}
