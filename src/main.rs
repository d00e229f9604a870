//! The command `coupon`.
//!
//! Exit codes: 0 done (audit: balanced; doctor: nothing is bad), 1 failed (audit: not balanced; doctor:
//! something is to be mended), 2 wrong usage or configuration (audit, doctor: could not tell), 3 a replay
//! was stopped or cancelled, 4 another replay is at work.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use coupon_dispatcher::app;
use coupon_dispatcher::audit::Scope;
use coupon_dispatcher::client::Client;
use coupon_dispatcher::config::{Config, ConfigError, Role, Secret};
use coupon_dispatcher::ids::CampaignId;
use coupon_dispatcher::operator::{self, DeadAction, RelayAction};
use coupon_dispatcher::progress::say;
use coupon_dispatcher::replay::{self, ReplayArgs};
use coupon_dispatcher::{demo, doctor, schema};
use serde_json::Value;
use sqlx::Connection as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Limited coupons, first come, first served.
///
/// Configured by the environment: `DATABASE_URL`, `REDIS_URL`, `NATS_URL`, `HTTP_ADDR` (127.0.0.1:8080),
/// `ADMIN_TOKEN`, `SHARDS` (1), `NATS_REPLICAS` (1), `BATCH_ROWS` (500), `OUTBOX_RETENTION_DAYS` (30; 0 for ever),
/// `RUST_LOG` (info).
#[derive(Parser)]
#[command(name = "coupon", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or Ctrl-C. Example: coupon serve --roles api,relay
    Serve {
        /// What this process does, of api, relay, project; all if not given.
        #[arg(long, value_delimiter = ',')]
        roles: Vec<Role>,
    },
    /// Apply the migrations. Example: SHARDS=4 coupon migrate
    Migrate,
    /// Show it all on private servers. Example: coupon demo --coupons 1000 --users 5000
    Demo {
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        coupons: u32,
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        users: u32,
        /// Requests a second; 0 is as fast as they are answered.
        #[arg(long, default_value_t = 0)]
        rate: u32,
        /// Go on serving afterwards, until Ctrl-C.
        #[arg(long)]
        keep: bool,
    },
    /// Campaigns, through the API. Example: coupon campaign list
    Campaign {
        #[command(subcommand)]
        action: CampaignAction,
        /// Where the API is; by default at `HTTP_ADDR`.
        #[arg(long, global = true)]
        url: Option<String>,
    },
    /// Publish events again, to subjects of their own. Example: coupon replay --type issued --dry-run
    ///
    /// Ctrl-C stops it, and --resume goes on. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped or
    /// cancelled, 4 another replay is at work.
    Replay(ReplayArgs),
    /// Make a projection again from its events; readers keep the old one until the new one has caught up.
    /// Example: coupon rebuild wallet
    Rebuild {
        /// wallet or settlement.
        projection: String,
        #[arg(long)]
        json: bool,
    },
    /// What only an operator can decide for a relay. Example: coupon relay epoch new --shard 0
    Relay {
        #[command(subcommand)]
        action: RelayAction,
    },
    /// Events that a projection could not apply. Example: coupon dead list
    Dead {
        #[command(subcommand)]
        action: DeadAction,
    },
    /// Prove that gate, coupons, outbox, stream and projections agree. Example: coupon audit --full
    ///
    /// The quick audit reads ends and counts that the servers keep: whether there are more coupons than
    /// there may be, as many seats are taken and as many issues are in the stream as coupons were numbered,
    /// the stream ends where the outbox ends and lacks nothing on the way, and the projections have reached
    /// the end. It does not see a row that was changed, exchanged or taken from the middle of a table, and
    /// counts no rows: those columns of the sheet stay empty. The full audit compares every event, seat and
    /// row, and counts. Exit codes: 0 balanced, 1 not, 2 could not tell.
    Audit {
        /// Only this one.
        #[arg(long)]
        campaign: Option<CampaignId>,
        /// Compare every event, seat and row, and count them.
        #[arg(long)]
        full: bool,
        #[arg(long)]
        json: bool,
    },
    /// Look whether Redis, Postgres and NATS are as the promises need them. Example: coupon doctor --json
    ///
    /// It asks, and changes nothing. One line for each check: ok; warn, which the promises survive; bad, which is
    /// to be mended; unknown; with what was found, why it matters and what to do. Give it a login that may see
    /// everything. Exit codes: 0 nothing is bad, 1 something is, 2 could not tell.
    Doctor {
        /// Transactions of Postgres that have been open for longer are named.
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        open_max: u32,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum CampaignAction {
    /// Create a draft from JSON. Example: coupon campaign create '{"name": "Friday", …}'
    Create {
        json: String,
    },
    /// The newest first.
    List,
    Show {
        id: CampaignId,
    },
    Open {
        id: CampaignId,
    },
    Close {
        id: CampaignId,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let default =
        if matches!(cli.command, Command::Serve { .. } | Command::Migrate) { "info" } else { "warn" };
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| EnvFilter::new(format!("{default},async_nats=error"))),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let judges = matches!(cli.command, Command::Audit { .. } | Command::Doctor { .. });
    match run(cli.command).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("coupon: {error:#}");
            let wrong = judges || error.is::<ConfigError>();
            ExitCode::from(if wrong { 2 } else { replay::exit_code(&error).unwrap_or(1) })
        }
    }
}

/// Answers whether all is well.
async fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Serve { roles } => serve(roles).await.map(|()| true),
        Command::Migrate => migrate().await.map(|()| true),
        Command::Demo { coupons, users, rate, keep } => {
            let users = usize::try_from(users)?;
            demo::run(demo::Options { coupons, users, rate, keep }, stopped_by_signal()?).await
        }
        Command::Campaign { action, url } => campaign(action, url).await.map(|()| true),
        Command::Replay(args) => {
            let stop = stopped_by_signal()?;
            replay::run(args, &config()?, &stop).await.map(|()| true)
        }
        Command::Rebuild { projection, json } => operator::rebuild(&config()?, &projection, json).await,
        Command::Relay { action } => operator::relay(&config()?, action).await.map(|()| true),
        Command::Dead { action } => operator::dead(&config()?, action).await.map(|()| true),
        Command::Audit { campaign, full, json } => {
            let scope = Scope { campaign, full };
            operator::audit(&config()?, scope, json).await
        }
        Command::Doctor { open_max, json } => {
            doctor::report(&config()?, Duration::from_secs(open_max.into()), json).await
        }
    }
}

fn config() -> Result<Config, ConfigError> {
    Config::read(|name| std::env::var(name).ok())
}

/// Cancelled by SIGTERM or SIGINT.
fn stopped_by_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        token.cancel();
    });
    Ok(stop)
}

async fn serve(roles: Vec<Role>) -> anyhow::Result<()> {
    let config = config()?;
    let roles: BTreeSet<Role> = if roles.is_empty() { Role::ALL.into() } else { roles.into_iter().collect() };
    let listener = if roles.contains(&Role::Api) || config.monitored {
        let listener = coupon_dispatcher::http::server::listen(config.http);
        Some(listener.with_context(|| format!("listen on HTTP_ADDR {}", config.http))?)
    } else {
        None
    };
    app::serve(&config, &roles, listener, stopped_by_signal()?).await
}

async fn migrate() -> anyhow::Result<()> {
    let config = config()?;
    let mut connection = sqlx::PgConnection::connect(config.database.reveal())
        .await
        .with_context(|| format!("Postgres at {} cannot be reached", config.database))?;
    schema::migrate(&mut connection, config.shards).await?;
    tracing::info!(shards = config.shards, "the schema is up to date");
    Ok(())
}

async fn campaign(action: CampaignAction, url: Option<String>) -> anyhow::Result<()> {
    let variable = |name| std::env::var(name).ok();
    let url = url.unwrap_or_else(|| {
        format!("http://{}", variable("HTTP_ADDR").unwrap_or_else(|| "127.0.0.1:8080".to_owned()))
    });
    let client = Client::new(&url, Secret::from(variable("ADMIN_TOKEN").context("ADMIN_TOKEN is needed")?));
    let answer = match action {
        CampaignAction::Create { json } => {
            let body: Value = serde_json::from_str(&json).context("read the campaign")?;
            client.post("/v1/campaigns", Some(&body)).await?
        }
        CampaignAction::List => client.get("/v1/campaigns").await?,
        CampaignAction::Show { id } => client.get(&format!("/v1/campaigns/{id}")).await?,
        CampaignAction::Open { id } => client.post(&format!("/v1/campaigns/{id}/open"), None).await?,
        CampaignAction::Close { id } => client.post(&format!("/v1/campaigns/{id}/close"), None).await?,
    };
    say(serde_json::to_string_pretty(&answer)?)?;
    Ok(())
}
