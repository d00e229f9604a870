//! `coupon show` and `coupon find`: coupons, through the API.

use clap::{ArgGroup, Args};
use serde_json::{Value, json};

use super::api::ApiArgs;
use super::campaign::items;
use super::ended::Ended;
use super::print::Output;
use super::user::path_of;
use crate::client::Client;
use crate::coupon::code::Code;
use crate::ids::{CampaignId, CouponId, UserId};
use crate::page::PAGE_MAX;

/// Fields of a coupon: those of a list, which come first where all are shown.
const FIELDS: [&str; 8] =
    ["id", "campaign_id", "user_id", "number", "code", "state", "issued_at", "expires_at"];
/// Coupons that are found, at most: each is a request.
const FOUND_MAX: u16 = 200;

#[derive(Debug, Args)]
pub(super) struct ShowArguments {
    /// Id of the coupon.
    id: CouponId,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("whose").required(true).args(["user", "code"])))]
pub(super) struct FindArguments {
    /// The user who holds the coupons.
    #[arg(long, value_name = "ID", value_parser = |id: &str| UserId::parse(id))]
    user: Option<UserId>,
    /// The code of the coupon, as it was read or typed.
    #[arg(long, conflicts_with_all = ["campaign", "limit", "cursor"])]
    code: Option<Code>,
    /// Only coupons of this campaign.
    #[arg(long, value_name = "ID")]
    campaign: Option<CampaignId>,
    /// Coupons to find, 1 to 200.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=i64::from(FOUND_MAX)))]
    limit: u16,
    /// The `next` of an earlier answer, behind which this one begins.
    #[arg(long)]
    cursor: Option<CouponId>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

/// Prints a coupon.
pub(super) async fn show(
    ShowArguments { id, output, .. }: ShowArguments,
    client: &Client,
) -> anyhow::Result<Ended> {
    output.object(&client.get(&format!("/v1/coupons/{id}")).await?, &FIELDS)?;
    Ok(Ended::Done)
}

/// Prints the coupon with a code, or the coupons of a user: those of the wallet, each as the coupon itself is.
pub(super) async fn find(arguments: FindArguments, client: &Client) -> anyhow::Result<Ended> {
    if let Some(code) = &arguments.code {
        let found = client.get(&format!("/v1/coupons?code={}", code.text())).await?;
        let coupons = items(&found, "coupons")?;
        arguments.output.list(coupons, &found["next"], &FIELDS)?;
        return Ok(if coupons.is_empty() { Ended::NoSuchCode } else { Ended::Done });
    }
    let Some(user) = &arguments.user else {
        return Ok(Ended::WrongUsage("give --user or --code".to_owned()));
    };
    let (ids, next) = found(client, &arguments, user).await?;
    let mut coupons = Vec::with_capacity(ids.len());
    for id in ids {
        coupons.push(client.get(&format!("/v1/coupons/{id}")).await?);
    }
    arguments.output.list(&coupons, &next, &FIELDS)?;
    Ok(Ended::Done)
}

/// Ids of coupons that match, the newest first, and the cursor of those behind them.
async fn found(
    client: &Client,
    arguments: &FindArguments,
    user: &UserId,
) -> anyhow::Result<(Vec<CouponId>, Value)> {
    let FindArguments { campaign, limit, .. } = arguments;
    let campaign = campaign.map(|campaign| campaign.to_string());
    let mut cursor = arguments.cursor.map_or(Value::Null, |cursor| json!(cursor));
    let mut found = Vec::new();
    loop {
        let behind = cursor.as_str().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let page = client.get(&format!("{}?limit={PAGE_MAX}{behind}", path_of(user))).await?;
        for coupon in items(&page, "coupons")? {
            if campaign.as_deref().is_some_and(|campaign| coupon["campaign_id"] != campaign) {
                continue;
            }
            if found.len() == usize::from(*limit) {
                return Ok((found.clone(), json!(found.last())));
            }
            found.push(serde_json::from_value(coupon["id"].clone())?);
        }
        cursor = page["next"].clone();
        if cursor.is_null() {
            return Ok((found, Value::Null));
        }
    }
}
