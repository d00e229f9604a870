//! `coupon demo`: private servers, a rush of users over HTTP, and the balance sheet.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use outbox_relay::{Shard, stream};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;
use uuid::Uuid;

use super::ended::Ended;
use super::print::say;
use super::{migrate, stop};
use crate::app;
use crate::audit::{Scope, Sheet, audit};
use crate::client::Client;
use crate::config::{Config, Role, Secret};
use crate::connections::{Connections, Patience};
use crate::coupon;
use crate::event::OUTLET;
use crate::http::server;
use crate::ids::CampaignId;
use crate::progress::progress_bar;
use crate::rush::{Results, Rush};
use crate::servers::Servers;

/// For everything to be published and projected after the rush.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at the counts: a bar that is redrawn five times a second seems to move.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// How many times each user asks: the second answer must be the coupon of the first.
const ASKS_PER_USER: usize = 2;

#[derive(Clone, Debug, Args)]
pub(super) struct Arguments {
    /// Quantity of the campaign.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    coupons: u32,
    /// Users. Each user claims twice.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    users: u32,
    /// Requests a second; 0 is as fast as they are answered.
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Keep serving afterwards, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

/// Runs the demo. It is not balanced either if a promised coupon is missing, or a user got an error.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<Ended> {
    let stop = stop::on_signal()?;
    eprintln!("starting private Postgres, Redis and NATS");
    let servers = Servers::start().await?;
    let listener = server::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = listener.local_addr()?;
    let config = config(&servers, address)?;
    migrate::apply(&config).await?;
    let ended = CancellationToken::new();
    let roles = Role::ALL.into();
    let serving = app::serve(&config, &roles, Some(listener), ended.clone());
    let demonstration = async {
        let result = demonstrate(&config, address, &arguments, &stop).await;
        ended.cancel();
        result
    };
    let (served, shown) = tokio::join!(serving, demonstration);
    served.and(shown)
}

fn config(servers: &Servers, address: SocketAddr) -> anyhow::Result<Config> {
    let token = format!("demo-{}", Ulid::generate());
    Ok(Config::read(|name| match name {
        "DATABASE_URL" => Some(servers.database_url()),
        "REDIS_URL" => Some(servers.redis_url()),
        "NATS_URL" => Some(servers.nats_url()),
        "HTTP_ADDR" => Some(address.to_string()),
        "ADMIN_TOKEN" => Some(token.clone()),
        _ => None,
    })?)
}

/// Opens a campaign, lets the users rush, and prints what became of them.
async fn demonstrate(
    config: &Config,
    address: SocketAddr,
    arguments: &Arguments,
    stop: &CancellationToken,
) -> anyhow::Result<Ended> {
    let &Arguments { coupons, users, rate, keep } = arguments;
    let users = usize::try_from(users)?;
    let token = config.admin_token.clone().context("the demo has a token")?;
    let client = Client::new(&format!("http://{address}"), token.clone());
    let connections = Connections::open(config, Patience::None).await?;
    let campaign = open_campaign(&client, coupons).await?;
    eprintln!("{users} users, each asking twice, for {coupons} coupons, at http://{address}");

    let rush = Rush {
        addresses: vec![address],
        token: token.reveal().to_owned(),
        campaign,
        users,
        asks: ASKS_PER_USER,
        rate,
    };
    let results = tokio::select! {
        results = rush.run() => results,
        never = show_progress(&connections, campaign, coupons) => never?,
        () = stop.cancelled() => bail!("interrupted"),
    };
    let sheet = drained(&connections, config.shards).await?;
    let missing = missing(&connections, &results).await?;
    report(&results, missing)?;
    say(format_args!("\n{sheet}"))?;

    let expected = usize::try_from(coupons)?.min(users);
    let kept = missing == 0 && results.errors == 0 && results.promised.len() == expected;
    if !kept {
        say(format_args!("expected {expected} promised coupons, none of them missing, and no errors"))?;
    }
    if keep {
        keep_serving(config, &token, campaign, stop).await?;
    }
    connections.close().await;
    Ok(if sheet.is_balanced() && kept { Ended::Done } else { Ended::NotBalanced })
}

async fn open_campaign(client: &Client, coupons: u32) -> anyhow::Result<CampaignId> {
    let now = OffsetDateTime::now_utc();
    let time = |time: OffsetDateTime| time.format(&Rfc3339);
    let body = json!({
        "name": "Demo", "merchant_id": "demo-merchant", "face_value": 5_000, "currency": "EUR",
        "quantity": coupons, "opens_at": time(now)?, "closes_at": time(now + Duration::from_secs(3_600))?,
        "coupon_valid_for": "P30D", "settle_on": "issue",
    });
    let campaign = client.post("/v1/campaigns", Some(&body)).await?;
    let id: CampaignId = serde_json::from_value(campaign["id"].clone())?;
    let opened = client.post(&format!("/v1/campaigns/{id}/open"), None).await?;
    ensure!(opened["state"] == "open", "the campaign did not open: {opened}");
    Ok(id)
}

/// Draws live counts on a terminal, for ever.
async fn show_progress(
    connections: &Connections,
    campaign: CampaignId,
    coupons: u32,
) -> anyhow::Result<Results> {
    let bar = progress_bar(i64::from(coupons));
    loop {
        sleep(PROGRESS_INTERVAL).await;
        let issued = coupon::store::issued(&connections.pool, campaign).await?;
        let projected: i64 = sqlx::query_scalar("SELECT projection_position('wallet', 0::smallint)")
            .fetch_one(&connections.pool)
            .await?;
        let published = stream::end(&connections.nats, &OUTLET.stream_of(Shard(0))).await?;
        bar.set_position(u64::from(issued.unsigned_abs()));
        bar.set_message(format!("issued {issued}, published {published}, projected {projected}"));
    }
}

/// Audits until everything is published and projected. Returns the last sheet, which differs if that takes too long.
async fn drained(connections: &Connections, shards: i16) -> anyhow::Result<Sheet> {
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    loop {
        let sheet = audit(connections, shards, Scope { full: true, ..Scope::default() }).await?;
        if sheet.is_balanced() || Instant::now() > deadline {
            return Ok(sheet);
        }
        sleep(PROGRESS_INTERVAL).await;
    }
}

/// How many coupons were promised and do not exist.
async fn missing(connections: &Connections, results: &Results) -> anyhow::Result<usize> {
    let promised: Vec<Uuid> = results.promised.keys().map(|id| Uuid::from(*id)).collect();
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM coupons WHERE id = ANY ($1)")
        .bind(&promised)
        .fetch_one(&connections.pool)
        .await
        .context("look up the promised coupons")?;
    Ok(promised.len() - usize::try_from(there)?)
}

fn report(results: &Results, missing: usize) -> std::io::Result<()> {
    let ms = |share| results.latency(share).as_secs_f64() * 1_000.0;
    say(format_args!("offered    {:>8} requests", results.offered))?;
    say(format_args!(
        "achieved   {:>8.0} requests/s for {:.1} s",
        results.rate(),
        results.took.as_secs_f64()
    ))?;
    say(format_args!("issued     {:>8}", results.issued))?;
    say(format_args!("duplicates {:>8} shown the coupon they hold", results.already_issued))?;
    say(format_args!("sold out   {:>8}", results.sold_out))?;
    say(format_args!("retried    {:>8} told to ask again", results.retried))?;
    say(format_args!("errors     {:>8}", results.errors))?;
    say(format_args!("promised   {:>8} coupons, missing {missing}", results.promised.len()))?;
    say(format_args!(
        "latency    {:>8.1} ms p50, {:.1} p95, {:.1} p99, {:.1} max",
        ms(0.5),
        ms(0.95),
        ms(0.99),
        ms(1.0)
    ))
}

/// Prints how to reach the servers and the API, and waits until the demo is stopped.
async fn keep_serving(
    config: &Config,
    token: &Secret,
    campaign: CampaignId,
    stop: &CancellationToken,
) -> std::io::Result<()> {
    let (address, token) = (config.http, token.reveal());
    say("\nserving until Ctrl-C:")?;
    say(format_args!("  DATABASE_URL={}", config.database.reveal()))?;
    say(format_args!("  REDIS_URL={}", config.redis.reveal()))?;
    say(format_args!("  NATS_URL={}", config.nats.reveal()))?;
    say(format_args!("  HTTP_ADDR={address}"))?;
    say(format_args!("  ADMIN_TOKEN={token}"))?;
    say(format_args!(
        "  curl -s -H 'Authorization: Bearer {token}' http://{address}/v1/campaigns/{campaign}"
    ))?;
    stop.cancelled().await;
    Ok(())
}
