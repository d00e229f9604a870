//! `coupon token`: the API tokens.

use std::io::{self, Write as _};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::confirm::Confirmation;
use super::ended::Ended;
use super::print::{self, Output};
use crate::campaign::duration::{DURATION_DAYS_MAX, parse_duration};
use crate::config::{Config, Secret};
use crate::connections::connect_database;
use crate::identity::Scope;
use crate::identity::registry::{self, NewToken, Token, TokenError};
use crate::ids::{MerchantId, TokenId};
use crate::schema;

/// Bytes of a name, at most, as the table has it.
const NAME_BYTES_MAX: usize = 200;

/// Fields of a token.
const COLUMNS: [&str; 7] = ["id", "state", "scopes", "name", "merchant_id", "expires_at", "last_used_at"];

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: TokenAction,
}

#[derive(Debug, Subcommand)]
enum TokenAction {
    /// Create a token and print it: it is shown once. Example: coupon token create --name shop --scope issue
    Create(Create),
    /// List tokens, the live ones first, without their secrets. Example: coupon token list --json
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Revoke a token for ever: within 5 s every process refuses it. Example: coupon token revoke 01M7WFKG18ZXF910ZZ3NJPGCJX
    Revoke {
        id: TokenId,
        #[command(flatten)]
        confirmation: Confirmation,
        #[command(flatten)]
        output: Output,
    },
    /// Print a second secret for a token, and end the first one later. Example: coupon token rotate 01M7WFKG18ZXF910ZZ3NJPGCJX
    Rotate {
        id: TokenId,
        /// How long the first secret is valid besides, as ISO 8601 duration.
        #[arg(long, default_value = "PT24H", value_parser = parse_period)]
        keep: Duration,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// What the token is for, such as the name of its holder: 1 to 200 bytes.
    #[arg(long, value_parser = parse_name)]
    name: String,
    /// What it may do: some of admin (everything), campaign, issue, redeem, read, settle, separated by commas or repeated.
    #[arg(long = "scope", required = true, value_delimiter = ',')]
    scopes: Vec<Scope>,
    /// The merchant to which the scopes redeem and settle are bound.
    #[arg(long, value_parser = |id: &str| MerchantId::parse(id))]
    merchant: Option<MerchantId>,
    /// How long it is valid, as ISO 8601 duration, such as P30D; without it, until it is revoked.
    #[arg(long, value_parser = parse_period)]
    expires_in: Option<Duration>,
    #[command(flatten)]
    output: Output,
}

/// Creates, lists, revokes or rotates tokens. Needs Postgres alone.
pub(super) async fn run(Arguments { action }: Arguments, config: &Config) -> anyhow::Result<Ended> {
    match action {
        TokenAction::Create(create) => self::create(create, config).await,
        TokenAction::List { output } => {
            let tokens = registry::list(&mut connect(config).await?).await?;
            output.list(&tokens, &Value::Null, &COLUMNS)?;
            Ok(Ended::Done)
        }
        TokenAction::Revoke { id, confirmation, output } => revoke(id, config, confirmation, output).await,
        TokenAction::Rotate { id, keep, output } => {
            let (token, text) = registry::rotate(&mut connect(config).await?, id, keep).await?;
            show(&token, &text, output)?;
            Ok(Ended::Done)
        }
    }
}

async fn revoke(
    id: TokenId,
    config: &Config,
    confirmation: Confirmation,
    output: Output,
) -> anyhow::Result<Ended> {
    if let Some(refused) = confirmation.refused() {
        return Ok(refused);
    }
    let mut connection = connect(config).await?;
    if confirmation.looks() {
        let tokens = registry::list(&mut connection).await?;
        let token = tokens.into_iter().find(|token| token.id == id).ok_or(TokenError::NotFound(id))?;
        if confirmation.dry_run {
            output.dry_run(&token, &COLUMNS)?;
            return Ok(Ended::Done);
        }
        if let Some(declined) = confirmation.ask(&format!("Revoke token {token} for ever?"))? {
            return Ok(declined);
        }
    }
    output.object(&registry::revoke(&mut connection, id).await?, &COLUMNS)?;
    Ok(Ended::Done)
}

async fn create(create: Create, config: &Config) -> anyhow::Result<Ended> {
    let Create { name, mut scopes, merchant, expires_in, output } = create;
    let is_bound = |scope: &Scope| matches!(scope, Scope::Redeem | Scope::Settle);
    if merchant.is_some() && !scopes.iter().all(is_bound) {
        let problem = "--merchant binds the scopes redeem and settle alone";
        return Ok(Ended::WrongUsage(problem.to_owned()));
    }
    scopes.sort_unstable_by_key(|scope| *scope as u8);
    scopes.dedup();
    let new = NewToken { name, scopes, merchant, expires_in };
    let (token, text) = registry::create(&mut connect(config).await?, &new).await?;
    show(&token, &text, output)?;
    Ok(Ended::Done)
}

/// Prints the text of a token on standard output, and what it is on standard error; as JSON both on standard output.
fn show(token: &Token, text: &Secret, output: Output) -> anyhow::Result<()> {
    if output.json {
        let mut value = serde_json::to_value(token)?;
        value["token"] = json!(text.reveal());
        return output.object(&value, &COLUMNS);
    }
    print::say(text.reveal())?;
    Ok(writeln!(io::stderr(), "{token}\nThe token above is not shown again.")?)
}

async fn connect(config: &Config) -> anyhow::Result<PgConnection> {
    let mut connection = connect_database(config).await?;
    schema::check(&mut connection, config.shards, config.deployment).await?;
    Ok(connection)
}

fn parse_period(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| {
        format!("must be an ISO 8601 duration such as P30D or PT12H, from 1 s to P{DURATION_DAYS_MAX}D")
    })
}

fn parse_name(text: &str) -> Result<String, String> {
    let fits = (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control);
    fits.then(|| text.to_owned())
        .ok_or_else(|| format!("must be 1 to {NAME_BYTES_MAX} bytes without control characters"))
}
