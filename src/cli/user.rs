//! `coupon user`: what users hold, through the API.

use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::api::ApiArgs;
use super::campaign::{PageArgs, items};
use super::ended::Ended;
use super::print::Output;
use crate::client::Client;
use crate::ids::UserId;
use crate::wallet::{Shown, ShownError};

/// Fields of a coupon in a wallet, as a list has them.
const COLUMNS: [&str; 8] =
    ["id", "campaign_id", "number", "face_value", "currency", "state", "issued_at", "expires_at"];

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: UserAction,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

#[derive(Debug, Subcommand)]
enum UserAction {
    /// List the wallet of a user, the newest coupon first. Example: coupon user coupons alice --status usable
    ///
    /// The wallet follows the coupons within some hundredths of a second, and shows no codes: coupon find does.
    Coupons {
        /// The user.
        #[arg(value_parser = |id: &str| UserId::parse(id))]
        user: UserId,
        /// Only coupons in this state: usable (the same as issued), issued, redeemed, cancelled, expired.
        #[arg(long, value_parser = status)]
        status: Option<String>,
        #[command(flatten)]
        page: PageArgs,
        #[command(flatten)]
        output: Output,
    },
}

fn status(word: &str) -> Result<String, ShownError> {
    word.parse::<Shown>().map(|_| word.to_owned())
}

/// Prints a page of a wallet.
pub(super) async fn run(Arguments { action, .. }: Arguments, client: &Client) -> anyhow::Result<Ended> {
    let UserAction::Coupons { user, status, page, output } = action;
    let status = status.map(|status| format!("status={status}"));
    let query: Vec<String> = status.into_iter().chain(page.query()).collect();
    let answer = client.get(&format!("{}?{}", path_of(&user), query.join("&"))).await?;
    output.list(items(&answer, "coupons")?, &answer["next"], &COLUMNS)?;
    Ok(Ended::Done)
}

/// The path of a user's wallet.
pub(super) fn path_of(user: &UserId) -> String {
    format!("/v1/users/{}/coupons", utf8_percent_encode(user.as_str(), NON_ALPHANUMERIC))
}
