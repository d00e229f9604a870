//! `coupon campaign`: campaigns, through the API.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::ended::Ended;
use super::print;
use crate::client::Client;
use crate::config::{HTTP_ADDR, client_token};
use crate::ids::CampaignId;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: CampaignAction,
    /// URL of the API, such as `https://coupons.example.com`; by default http:// and `HTTP_ADDR`.
    #[arg(long, global = true)]
    url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum CampaignAction {
    /// Create a draft. Example: coupon campaign create '{"name": "Friday", …}'
    Create {
        /// The body of `POST /v1/campaigns`.
        #[arg(value_parser = parse_json)]
        json: Value,
    },
    /// List campaigns, the newest first. Example: coupon campaign list
    List,
    /// Show one campaign. Example: coupon campaign show 01M7WFKG18ZXF910ZZ3NJPGCJX
    Show { id: CampaignId },
    /// Open a campaign: users can claim from its start on. Example: coupon campaign open 01M7WFKG18ZXF910ZZ3NJPGCJX
    Open { id: CampaignId },
    /// Close a campaign for good. Example: coupon campaign close 01M7WFKG18ZXF910ZZ3NJPGCJX
    Close { id: CampaignId },
}

/// Prints the answer of the API. `variable` looks up variables of the environment.
pub(super) async fn run(
    Arguments { action, url }: Arguments,
    variable: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Ended> {
    let address = || HTTP_ADDR.value(&variable).unwrap_or_default();
    let url = url.unwrap_or_else(|| format!("http://{}", address()));
    let token = match client_token(&variable) {
        Ok(token) => token,
        Err(error) => return Ok(Ended::Misconfigured(error)),
    };
    let client = Client::new(&url, token);
    let answer = match action {
        CampaignAction::Create { json } => client.post("/v1/campaigns", Some(&json)).await?,
        CampaignAction::List => client.get("/v1/campaigns").await?,
        CampaignAction::Show { id } => client.get(&format!("/v1/campaigns/{id}")).await?,
        CampaignAction::Open { id } => client.post(&format!("/v1/campaigns/{id}/open"), None).await?,
        CampaignAction::Close { id } => client.post(&format!("/v1/campaigns/{id}/close"), None).await?,
    };
    print::document(&answer)?;
    Ok(Ended::Done)
}

fn parse_json(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text)
}
