//! `coupon redeem`, `coupon restore`, `coupon cancel` and `coupon history`: what becomes of coupons, through the API.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::api::ApiArgs;
use super::campaign::{PageArgs, items};
use super::confirm::Confirmation;
use super::ended::Ended;
use super::print::{self, Output};
use crate::client::Client;
use crate::coupon::code::Code;
use crate::ids::{CouponId, OrderRef};

/// Fields of a change: those of a list, which come first where all are shown.
const FIELDS: [&str; 8] = ["coupon_id", "nth", "kind", "at", "actor", "order_ref", "amount", "request_id"];
/// Fields of a trial.
const TRIAL: [&str; 3] = ["redeemable", "reasons", "last_change"];

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Redeem a coupon for an order, through the API. Example: coupon redeem CBDQ-JJS3-YXM5-5SWY-9BD6 --order-ref order-7
    ///
    /// The same order again is shown the first answer. What the coupon does not allow is refused, with the reason.
    Redeem(RedeemArguments),
    /// Take back the redemption of a coupon, through the API. Example: coupon restore 01M7WFKGE14NWN561KVXBYTJTY --order-ref order-7
    Restore(RestoreArguments),
    /// Cancel a coupon for ever, through the API. Example: coupon cancel 01M7WFKGE14NWN561KVXBYTJTY
    Cancel(CancelArguments),
    /// List what became of a coupon, by whom and when, through the API. Example: coupon history 01M7WFKGE14NWN561KVXBYTJTY
    History(HistoryArguments),
}

#[derive(Debug, Args)]
pub(super) struct RedeemArguments {
    /// The code of the coupon, as it was read or typed.
    code: Code,
    /// The order for which the coupon is used.
    #[arg(long, value_name = "ORDER", value_parser = |order: &str| OrderRef::parse(order))]
    order_ref: OrderRef,
    /// What is used of the coupon, in minor units; its face value if not given.
    #[arg(long)]
    amount: Option<i64>,
    /// Only try whether it can be redeemed.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArguments {
    /// Id of the coupon.
    id: CouponId,
    /// The order of the redemption.
    #[arg(long, value_name = "ORDER", value_parser = |order: &str| OrderRef::parse(order))]
    order_ref: OrderRef,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Args)]
pub(super) struct CancelArguments {
    /// Id of the coupon.
    id: CouponId,
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Args)]
pub(super) struct HistoryArguments {
    /// Id of the coupon.
    id: CouponId,
    #[command(flatten)]
    page: PageArgs,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    api: ApiArgs,
}

impl Action {
    pub(super) fn api(&self) -> &ApiArgs {
        match self {
            Self::Redeem(RedeemArguments { api, .. })
            | Self::Restore(RestoreArguments { api, .. })
            | Self::Cancel(CancelArguments { api, .. })
            | Self::History(HistoryArguments { api, .. }) => api,
        }
    }

    /// Asks the API, and prints its answer.
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<Ended> {
        match self {
            Self::Redeem(RedeemArguments { code, order_ref, amount, dry_run, output, .. }) => {
                let body = json!({ "code": code.text(), "order_ref": order_ref, "amount": amount });
                let path = if dry_run { "/v1/redemptions?dry_run=true" } else { "/v1/redemptions" };
                let answer = client.post(path, Some(&body)).await?;
                output.object(&answer, if dry_run { &TRIAL } else { &FIELDS })?;
            }
            Self::Restore(RestoreArguments { id, order_ref, output, .. }) => {
                let body = json!({ "order_ref": order_ref });
                output.object(
                    &client.post(&format!("/v1/coupons/{id}/restore"), Some(&body)).await?,
                    &FIELDS,
                )?;
            }
            Self::Cancel(CancelArguments { id, confirmation, output, .. }) => {
                return cancel(client, id, confirmation, output).await;
            }
            Self::History(HistoryArguments { id, page, output, .. }) => {
                let query = page.query().join("&");
                let answer = client.get(&format!("/v1/coupons/{id}/changes?{query}")).await?;
                output.list(items(&answer, "changes")?, &answer["next"], &FIELDS)?;
            }
        }
        Ok(Ended::Done)
    }
}

async fn cancel(
    client: &Client,
    id: CouponId,
    confirmation: Confirmation,
    output: Output,
) -> anyhow::Result<Ended> {
    if let Some(refused) = confirmation.refused() {
        return Ok(refused);
    }
    if confirmation.looks() {
        let coupon: Value = client.get(&format!("/v1/coupons/{id}")).await?;
        if confirmation.dry_run {
            output.dry_run(&coupon, &["id", "user_id", "state"])?;
            return Ok(Ended::Done);
        }
        let [user, state] = ["user_id", "state"].map(|field| print::text(&coupon[field]));
        if let Some(declined) =
            confirmation.ask(&format!("Cancel coupon {id} of {user} ({state}) for ever?"))?
        {
            return Ok(declined);
        }
    }
    output.object(&client.post(&format!("/v1/coupons/{id}/cancel"), None).await?, &FIELDS)?;
    Ok(Ended::Done)
}
