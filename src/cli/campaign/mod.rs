//! `coupon campaign`: campaigns, through the API.

mod draft;

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::Value;

use self::draft::DraftArgs;
use super::api::ApiArgs;
use super::confirm::Confirmation;
use super::ended::Ended;
use super::print::{self, Output};
use crate::campaign::State;
use crate::client::Client;
use crate::ids::CampaignId;
use crate::page::PAGE_MAX;

/// Fields of a campaign: those of a list, and those that come first where all are shown.
const COLUMNS: [&str; 7] = ["id", "name", "state", "quantity", "issued", "left", "closes_at"];
const FIRST: [&str; 13] = [
    "id",
    "name",
    "state",
    "quantity",
    "budget",
    "issued",
    "left",
    "per_user_limit",
    "merchant_id",
    "face_value",
    "currency",
    "opens_at",
    "closes_at",
];

/// Fields of a change.
const CHANGE_COLUMNS: [&str; 6] = ["version", "at", "actor", "request_id", "before", "after"];

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: CampaignAction,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

#[derive(Debug, Subcommand)]
enum CampaignAction {
    /// Create a draft. Example: coupon campaign create @friday.json --quantity 500
    #[command(after_long_help = draft::EXAMPLES)]
    Create {
        #[command(flatten)]
        draft: Box<DraftArgs>,
        #[command(flatten)]
        output: Output,
    },
    /// List campaigns, the newest first. Example: coupon campaign list --state open,scheduled
    List {
        /// Only campaigns in one of these states, separated by commas: draft, scheduled, open, paused, closed.
        #[arg(long, value_delimiter = ',')]
        state: Vec<State>,
        #[command(flatten)]
        page: PageArgs,
        #[command(flatten)]
        output: Output,
    },
    /// Show one campaign. Example: coupon campaign show 01M7WFKG18ZXF910ZZ3NJPGCJX
    Show {
        id: CampaignId,
        #[command(flatten)]
        output: Output,
    },
    /// List what was changed of a campaign, by whom and when. Example: coupon campaign changes 01M7WFKG18ZXF910ZZ3NJPGCJX
    Changes {
        id: CampaignId,
        #[command(flatten)]
        page: PageArgs,
        #[command(flatten)]
        output: Output,
    },
    /// Change fields of a campaign, as far as its state allows. Example: coupon campaign edit 01M7WFKG18ZXF910ZZ3NJPGCJX --quantity 200
    Edit {
        /// The campaign.
        id: CampaignId,
        #[command(flatten)]
        draft: Box<DraftArgs>,
        /// Change nothing unless the campaign has this version.
        #[arg(long, value_name = "VERSION")]
        if_version: Option<i32>,
        #[command(flatten)]
        output: Output,
    },
    /// Open a campaign: users can claim from its start on. Example: coupon campaign open 01M7WFKG18ZXF910ZZ3NJPGCJX
    Open {
        id: CampaignId,
        #[command(flatten)]
        output: Output,
    },
    /// Stop the claims of an open campaign, until it is opened again. Example: coupon campaign pause 01M7WFKG18ZXF910ZZ3NJPGCJX
    Pause {
        id: CampaignId,
        #[command(flatten)]
        output: Output,
    },
    /// Compare the seats of a campaign in Redis with Postgres, and load them again. Example: coupon campaign sync 01M7WFKG18ZXF910ZZ3NJPGCJX
    Sync {
        id: CampaignId,
        #[command(flatten)]
        output: Output,
    },
    /// Close a campaign for good. Example: coupon campaign close 01M7WFKG18ZXF910ZZ3NJPGCJX --dry-run
    Close {
        id: CampaignId,
        #[command(flatten)]
        confirmation: Confirmation,
        #[command(flatten)]
        output: Output,
    },
}

/// Which page of a list.
#[derive(Debug, Args)]
pub(super) struct PageArgs {
    /// Items on the page, 1 to 200; 50 if not given.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..=PAGE_MAX))]
    limit: Option<i64>,
    /// The `next` of an earlier page, behind which this one begins.
    #[arg(long)]
    cursor: Option<ulid::Ulid>,
}

impl PageArgs {
    /// As parameters of a query.
    pub(super) fn query(&self) -> Vec<String> {
        let limit = self.limit.map(|limit| format!("limit={limit}"));
        let cursor = self.cursor.map(|cursor| format!("cursor={cursor}"));
        limit.into_iter().chain(cursor).collect()
    }
}

/// Asks the API, and prints its answer.
pub(super) async fn run(Arguments { action, .. }: Arguments, client: &Client) -> anyhow::Result<Ended> {
    match action {
        CampaignAction::Create { draft, output } => {
            let body = match draft.body() {
                Ok(body) => body,
                Err(problem) => return Ok(Ended::WrongUsage(problem)),
            };
            output.object(&client.post("/v1/campaigns", Some(&body)).await?, &FIRST)?;
        }
        CampaignAction::List { state, page, output } => {
            let states: Vec<&str> = state.iter().map(|state| state.as_str()).collect();
            let states = (!states.is_empty()).then(|| format!("state={}", states.join(",")));
            let query: Vec<String> = states.into_iter().chain(page.query()).collect();
            let answer = client.get(&format!("/v1/campaigns?{}", query.join("&"))).await?;
            output.list(items(&answer, "campaigns")?, &answer["next"], &COLUMNS)?;
            for id in answer["unreadable"].as_array().into_iter().flatten() {
                let id = print::text(id);
                writeln!(
                    io::stderr(),
                    "Campaign {id} is left out: what the service has stored of it cannot be read"
                )?;
            }
        }
        CampaignAction::Show { id, output } => {
            output.object(&client.get(&format!("/v1/campaigns/{id}")).await?, &FIRST)?;
        }
        CampaignAction::Changes { id, page, output } => {
            let query = page.query().join("&");
            let answer = client.get(&format!("/v1/campaigns/{id}/changes?{query}")).await?;
            output.list(items(&answer, "changes")?, &answer["next"], &CHANGE_COLUMNS)?;
        }
        CampaignAction::Edit { id, draft, if_version, output } => {
            let body = match draft.edit() {
                Ok(body) => body,
                Err(problem) => return Ok(Ended::WrongUsage(problem)),
            };
            let edited = client.patch(&format!("/v1/campaigns/{id}"), &body, if_version).await?;
            output.object(&edited, &FIRST)?;
        }
        CampaignAction::Open { id, output } => {
            output.object(&client.post(&format!("/v1/campaigns/{id}/open"), None).await?, &FIRST)?;
        }
        CampaignAction::Pause { id, output } => {
            output.object(&client.post(&format!("/v1/campaigns/{id}/pause"), None).await?, &FIRST)?;
        }
        CampaignAction::Sync { id, output } => {
            let synced = client.post(&format!("/v1/campaigns/{id}/sync"), None).await?;
            output.object(&synced, &["issued", "before", "after", "fields"])?;
        }
        CampaignAction::Close { id, confirmation, output } => {
            return close(client, id, confirmation, output).await;
        }
    }
    Ok(Ended::Done)
}

async fn close(
    client: &Client,
    id: CampaignId,
    confirmation: Confirmation,
    output: Output,
) -> anyhow::Result<Ended> {
    if let Some(refused) = confirmation.refused() {
        return Ok(refused);
    }
    if confirmation.looks() {
        let campaign = client.get(&format!("/v1/campaigns/{id}")).await?;
        if confirmation.dry_run {
            output.dry_run(&campaign, &FIRST)?;
            return Ok(Ended::Done);
        }
        let [name, state, issued, quantity] =
            ["name", "state", "issued", "quantity"].map(|field| print::text(&campaign[field]));
        let question =
            format!("Close campaign {id} ({name}, {state}, {issued} of {quantity} coupons issued) for ever?");
        if let Some(declined) = confirmation.ask(&question)? {
            return Ok(declined);
        }
    }
    output.object(&client.post(&format!("/v1/campaigns/{id}/close"), None).await?, &FIRST)?;
    Ok(Ended::Done)
}

/// The items of a page that the API has answered.
pub(super) fn items<'a>(answer: &'a Value, name: &str) -> anyhow::Result<&'a Vec<Value>> {
    answer[name].as_array().with_context(|| format!("the answer has no {name}: is this the URL of the API?"))
}
