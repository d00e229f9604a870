//! The demo: private servers, a real rush over HTTP, and the balance sheet.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;
use uuid::Uuid;

use crate::app::{self, Connections, Patience};
use crate::audit::{Scope, Sheet, audit};
use crate::client::Client;
use crate::config::{Config, Role, Secret};
use crate::http::server;
use crate::ids::CampaignId;
use crate::progress::{progress_bar, say};
use crate::rush::{Results, Rush};
use crate::schema;
use crate::servers::Servers;

/// For everything to be published and projected after the rush.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// How much of a rush.
#[derive(Clone, Debug)]
pub struct Options {
    pub coupons: u32,
    pub users: usize,
    pub rate: u32,
    /// Leave it serving afterwards.
    pub keep: bool,
}

/// Runs the demo. Answers whether everything agreed at the end.
///
/// # Errors
/// When it cannot be run.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<bool> {
    eprintln!("starting private Postgres, Redis and NATS");
    let servers = Servers::start().await?;
    let listener = server::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = listener.local_addr()?;
    let config = config(&servers, address)?;
    migrate(&config).await?;
    let ended = CancellationToken::new();
    let roles = Role::ALL.into();
    let serving = app::serve(&config, &roles, Some(listener), ended.clone());
    let demonstration = async {
        let result = demonstrate(&config, address, &options, &stop).await;
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

async fn migrate(config: &Config) -> anyhow::Result<()> {
    use sqlx::Connection as _;
    let mut connection = sqlx::PgConnection::connect(config.database.reveal()).await?;
    Ok(schema::migrate(&mut connection, config.shards).await?)
}

async fn demonstrate(
    config: &Config,
    address: SocketAddr,
    options: &Options,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let token = config.admin_token.clone().unwrap_or_else(|| Secret::from(String::new()));
    let client = Client::new(&format!("http://{address}"), token.clone());
    let connections = Connections::open(config, Patience::None).await?;
    let campaign = open_campaign(&client, options.coupons).await?;
    eprintln!(
        "{} users, each asking twice, for {} coupons, at http://{address}",
        options.users, options.coupons
    );

    let rush = Rush {
        addresses: vec![address],
        token: token.reveal().to_owned(),
        campaign,
        users: options.users,
        asks: 2,
        rate: options.rate,
    };
    let results = tokio::select! {
        results = rush.run() => results,
        never = show_progress(&connections, campaign, options.coupons) => never?,
        () = stop.cancelled() => anyhow::bail!("interrupted"),
    };
    let sheet = drained(&connections, config.shards).await?;
    let missing = missing(&connections, &results).await?;
    report(&results, missing)?;
    say(format_args!("\n{sheet}"))?;

    let expected = (options.coupons as usize).min(options.users);
    let kept = missing == 0 && results.errors == 0 && results.promised.len() == expected;
    if !kept {
        say(format_args!("expected {expected} coupons promised, none missing and no errors"))?;
    }
    if options.keep {
        keep(config, address, campaign, &token, stop).await?;
    }
    connections.close().await;
    Ok(sheet.is_balanced() && kept)
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

/// Live counts on a terminal.
async fn show_progress(
    connections: &Connections,
    campaign: CampaignId,
    coupons: u32,
) -> anyhow::Result<Results> {
    let bar = progress_bar(i64::from(coupons));
    loop {
        sleep(PROGRESS_INTERVAL).await;
        let (issued, projected): (i32, i64) = sqlx::query_as(
            "SELECT coalesce((SELECT number FROM coupons WHERE campaign_id = $1 ORDER BY number DESC LIMIT 1), 0), \
                    projection_position('wallet', 0::smallint)",
        )
        .bind(Uuid::from(campaign.0))
        .fetch_one(&connections.pool)
        .await?;
        let stream = outbox_relay::stream::end(
            &connections.nats,
            &crate::event::OUTLET.stream_of(outbox_relay::Shard(0)),
        )
        .await?;
        bar.set_position(u64::from(issued.unsigned_abs()));
        bar.set_message(format!("issued {issued}, published {stream}, projected {projected}"));
    }
}

/// The sheet once everything is published and projected, or the last one that differs.
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

/// Coupons that were promised and are not there.
async fn missing(connections: &Connections, results: &Results) -> anyhow::Result<usize> {
    let promised: Vec<Uuid> = results.promised.keys().map(|id| Uuid::from(*id)).collect();
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM coupons WHERE id = ANY ($1)")
        .bind(&promised)
        .fetch_one(&connections.pool)
        .await
        .context("look up the promised coupons")?;
    Ok(promised.len() - usize::try_from(there)?)
}

fn report(results: &Results, missing: usize) -> io::Result<()> {
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

async fn keep(
    config: &Config,
    address: SocketAddr,
    campaign: CampaignId,
    token: &Secret,
    stop: &CancellationToken,
) -> io::Result<()> {
    say("\nserving until Ctrl-C:")?;
    say(format_args!("  DATABASE_URL={}", config.database.reveal()))?;
    say(format_args!("  REDIS_URL={}", config.redis.reveal()))?;
    say(format_args!("  NATS_URL={}", config.nats.reveal()))?;
    say(format_args!("  HTTP_ADDR={address}"))?;
    say(format_args!("  ADMIN_TOKEN={}", token.reveal()))?;
    say(format_args!(
        "  curl -s -H 'Authorization: Bearer {}' http://{address}/v1/campaigns/{campaign}",
        token.reveal()
    ))?;
    stop.cancelled().await;
    Ok(())
}
