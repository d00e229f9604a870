//! The command `coupon`.
//!
//! Exit codes: 0 done (audit: balanced), 1 failed (audit: not balanced), 2 wrong usage or
//! configuration (audit: could not tell).

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use coupon_dispatcher::app::{self, Connections, Patience};
use coupon_dispatcher::audit::{Scope, audit};
use coupon_dispatcher::campaign::CampaignId;
use coupon_dispatcher::client::Client;
use coupon_dispatcher::config::{Config, ConfigError, Role, Secret};
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::progress::progress_bar;
use coupon_dispatcher::{demo, event, replay, schema};
use outbox_relay::epoch::{self, Epochs};
use outbox_relay::rebuild::{Progress, Rebuild};
use outbox_relay::replay::Selection;
use outbox_relay::{Shard, dead};
use serde_json::{Value, json};
use sqlx::Connection as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use ulid::Ulid;

/// Parked events on a list.
const LETTERS_MAX: i64 = 1_000;

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
        campaign: Option<Ulid>,
        /// Compare every event, seat and row, and count them.
        #[arg(long)]
        full: bool,
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
        id: Ulid,
    },
    Open {
        id: Ulid,
    },
    Close {
        id: Ulid,
    },
}

#[derive(Subcommand)]
enum RelayAction {
    /// Epochs: how positions of the outbox and sequences of its stream are tied together.
    Epoch {
        #[command(subcommand)]
        action: EpochAction,
    },
}

#[derive(Subcommand)]
enum EpochAction {
    /// Let a relay that has stopped go on: at the end of the stream as it is, behind the last event on which
    /// outbox and stream agree. Example: coupon relay epoch new --shard 0
    New {
        #[arg(long, default_value_t = 0)]
        shard: i16,
        #[arg(long)]
        json: bool,
    },
    /// All that were begun. Example: coupon relay epoch list --shard 0
    List {
        #[arg(long, default_value_t = 0)]
        shard: i16,
    },
}

#[derive(Subcommand)]
enum DeadAction {
    /// What is parked. Example: coupon dead list --json
    List {
        #[arg(long)]
        json: bool,
    },
    /// One event, as JSON. Example: coupon dead show wallet 17
    Show(Letter),
    /// Apply it after all. Example: coupon dead redrive wallet 17
    Redrive(Letter),
    /// Give it up: it is never applied. Example: coupon dead drop wallet 17
    Drop(Letter),
}

/// A parked event.
#[derive(Args)]
struct Letter {
    projection: String,
    position: i64,
    #[arg(long, default_value_t = 0)]
    shard: i16,
}

#[derive(Args)]
struct ReplayArgs {
    /// Name of the run, one token of a subject; a new one if not given.
    #[arg(long, value_parser = parse_token)]
    run: Option<String>,
    /// Only of this campaign; may be given again.
    #[arg(long)]
    campaign: Vec<Ulid>,
    /// Only of this type; may be given again.
    #[arg(long = "type", value_parser = clap::builder::PossibleValuesParser::new(event::KINDS))]
    kind: Vec<String>,
    /// First position.
    #[arg(long)]
    from: Option<i64>,
    /// Last position.
    #[arg(long)]
    to: Option<i64>,
    /// Committed at or after, such as 2026-11-20T18:00:00Z.
    #[arg(long, value_parser = parse_time)]
    since: Option<OffsetDateTime>,
    /// Committed before.
    #[arg(long, value_parser = parse_time)]
    until: Option<OffsetDateTime>,
    /// Only say what would be published.
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    json: bool,
}

fn parse_time(text: &str) -> Result<OffsetDateTime, time::error::Parse> {
    OffsetDateTime::parse(text, &Rfc3339)
}

fn parse_token(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits { Ok(text.to_owned()) } else { Err("must be 1 to 64 letters, digits and hyphens".to_owned()) }
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
    let audits = matches!(cli.command, Command::Audit { .. });
    match run(cli.command).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("coupon: {error:#}");
            ExitCode::from(if audits || error.is::<ConfigError>() { 2 } else { 1 })
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
        Command::Replay(args) => replay_events(args).await.map(|()| true),
        Command::Rebuild { projection, json } => rebuild(&projection, json).await,
        Command::Relay { action: RelayAction::Epoch { action } } => epoch(action).await.map(|()| true),
        Command::Dead { action } => dead(action).await.map(|()| true),
        Command::Audit { campaign, full, json } => {
            let config = config()?;
            let connections = Connections::open(&config, Patience::None).await?;
            let scope = Scope { campaign: campaign.map(CampaignId), full };
            print_audit(&connections, config.shards, scope, json).await
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
    println!("{}", serde_json::to_string_pretty(&answer)?);
    Ok(())
}

async fn epoch(action: EpochAction) -> anyhow::Result<()> {
    let config = config()?;
    let connections = Connections::open(&config, Patience::None).await?;
    match action {
        EpochAction::List { shard } => {
            let mut connection = connections.pool.acquire().await?;
            let epochs = Epochs::read(&mut connection, Shard(shard)).await?;
            println!("{}", serde_json::to_string_pretty(&epochs)?);
        }
        EpochAction::New { shard, json } => {
            anyhow::ensure!((0..config.shards).contains(&shard), "there is no shard {shard}");
            let Connections { database, nats, .. } = &connections;
            let begun = epoch::begin(database, nats, &OUTLET, Shard(shard), config.replicas).await?;
            if json {
                println!("{}", serde_json::to_string(&begun)?);
            } else {
                println!("{begun}");
            }
        }
    }
    Ok(())
}

/// Rebuilds, and then audits: answers whether it balances.
async fn rebuild(name: &str, json: bool) -> anyhow::Result<bool> {
    let config = config()?;
    let connections = Connections::open(&config, Patience::None).await?;
    let projection = app::projections().into_iter().find(|projection| projection.name() == name);
    let projection = [projection.with_context(|| format!("there is no projection {name}"))?];
    let Connections { database, nats, .. } = &connections;
    let rebuild = Rebuild { database, nats, outlet: &OUTLET, shards: config.shards, projection };
    let bar = progress_bar(0);
    let applied = rebuild
        .run(|Progress { applied, total }| {
            bar.set_length(total.unsigned_abs());
            bar.set_position(applied.unsigned_abs());
        })
        .await?;
    bar.finish_and_clear();
    if !json {
        println!("rebuilt {name} from {applied} events");
    }
    print_audit(&connections, config.shards, Scope { full: true, ..Scope::default() }, json).await
}

async fn print_audit(
    connections: &Connections,
    shards: i16,
    scope: Scope,
    json: bool,
) -> anyhow::Result<bool> {
    let sheet = audit(connections, shards, scope).await?;
    if json {
        println!("{}", serde_json::to_string(&json!({ "balanced": sheet.is_balanced(), "sheet": sheet }))?);
    } else {
        println!("{sheet}");
    }
    Ok(sheet.is_balanced())
}

async fn dead(action: DeadAction) -> anyhow::Result<()> {
    let connections = Connections::open(&config()?, Patience::None).await?;
    let (mut connection, nats) = (connections.pool.acquire().await?, &connections.nats);
    match action {
        DeadAction::List { json } => {
            let parked = dead::list(&mut connection, LETTERS_MAX).await?;
            if json {
                println!("{}", serde_json::to_string(&parked)?);
            } else {
                for parked in parked {
                    println!("{parked}");
                }
            }
        }
        DeadAction::Show(Letter { projection, position, shard }) => {
            let shown = dead::show(&mut connection, nats, &OUTLET, &projection, Shard(shard), position);
            let (parked, event) = shown.await?;
            let event: Value = serde_json::from_slice(&event.body)?;
            println!("{}", serde_json::to_string_pretty(&json!({ "parked": parked, "event": event }))?);
        }
        DeadAction::Redrive(Letter { projection, position, shard }) => {
            let projections = app::projections();
            let known = projections.iter().find(|known| known.name() == projection);
            let known = known.with_context(|| format!("there is no projection {projection}"))?;
            dead::redrive(&mut connection, nats, &OUTLET, &**known, Shard(shard), position).await?;
        }
        DeadAction::Drop(Letter { projection, position, shard }) => {
            dead::drop_parked(&mut connection, nats, &OUTLET, &projection, Shard(shard), position).await?;
        }
    }
    Ok(())
}

async fn replay_events(args: ReplayArgs) -> anyhow::Result<()> {
    let config = config()?;
    let connections = Connections::open(&config, Patience::None).await?;
    let selection = Selection {
        kinds: args.kind,
        keys: args.campaign.iter().map(ToString::to_string).collect(),
        from: args.from,
        to: args.to,
        since: args.since,
        until: args.until,
    };
    let run = args.run.unwrap_or_else(|| Ulid::generate().to_string());
    let summary = replay::run(&connections, config.shards, &run, &selection, args.dry_run).await?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
        return Ok(());
    }
    let verb = if summary.dry_run { "would publish" } else { "published" };
    println!(
        "{verb} {} events, {} bytes of data, to {} in stream {}",
        summary.events, summary.bytes, summary.subject, summary.stream
    );
    for plan in &summary.shards {
        if let (Some(first), Some(last)) = (plan.first, plan.last) {
            println!("  shard {}: {} events, positions {first} to {last}", plan.shard, plan.events);
        }
    }
    Ok(())
}
