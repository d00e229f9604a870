//! `coupon demo`: private servers, a rush of users over HTTP, and the balance sheet; with `--keep` a service to try
//! things on, with `--data` one that goes on where it was ended.

mod exports;
mod report;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use outbox_relay::{Shard, stream};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use self::report::report;
use super::ended::Ended;
use super::print::say;
use super::{migrate, stop};
use crate::app::{self, Listeners};
use crate::audit::{Scope, Sheet, audit};
use crate::client::Client;
use crate::config::{Config, Role};
use crate::connections::{Connections, Patience};
use crate::coupon;
use crate::event::OUTLET;
use crate::http::server;
use crate::ids::{CampaignId, CouponId};
use crate::progress::progress_bar;
use crate::rush::{Results, Rush};
use crate::servers::Servers;
use crate::storage::prepared;

/// For the service to start on servers that are there.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const READY_INTERVAL: Duration = Duration::from_millis(20);
/// For everything to be published and projected after the rush.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at the counts: a bar that is redrawn five times a second seems to move.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// How long the campaign is open: a demo that is kept takes claims for as long as anybody tries things on it.
const CAMPAIGN_OPEN: Duration = Duration::from_secs(365 * 86_400);
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
    /// Keep the servers' data in this folder. If it has the data of an earlier demo, continue with that, without a rush.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Runs the demo. It is not balanced either if a promised coupon is missing, or a user got an error.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<Ended> {
    let stop = stop::on_signal()?;
    eprintln!("starting private Postgres, Redis and NATS");
    let mut servers = match &arguments.data {
        Some(folder) => Servers::start_in(folder).await?,
        None => Servers::start().await?,
    };
    let listener = server::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = listener.local_addr()?;
    let config = config(&servers, address)?;
    migrate::apply(&config).await?;
    let ended = CancellationToken::new();
    let roles = Role::ALL.into();
    let listeners = Listeners { http: Some(listener), monitor: None };
    let serving = app::serve(&config, &roles, listeners, ended.clone());
    let demonstration = async {
        let result = demonstrate(&config, &arguments, &stop).await;
        ended.cancel();
        result
    };
    let (served, shown) = tokio::join!(serving, demonstration);
    if arguments.data.is_some() {
        servers.stop().await;
    }
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

/// Lets users rush, or continues with the data of an earlier demo; then serves until it is stopped, if it is kept.
async fn demonstrate(
    config: &Config,
    arguments: &Arguments,
    stop: &CancellationToken,
) -> anyhow::Result<Ended> {
    let token = config.admin_token.clone().context("the demo has a token")?;
    let client = Client::new(&format!("http://{}", config.http), token);
    let connections = Connections::open(config, Patience::None).await?;
    let ready = async {
        while client.get("/readyz").await.is_err() {
            sleep(READY_INTERVAL).await;
        }
    };
    timeout(READY_TIMEOUT, ready).await.context("the service does not become ready")?;
    let (campaign, ended) = match earlier_campaign(&client).await? {
        Some(campaign) => {
            eprintln!("continuing with the data of an earlier demo");
            let sheet = drained(&connections, config.shards).await?;
            say(&sheet)?;
            (campaign, if sheet.is_balanced() { Ended::Done } else { Ended::NotBalanced })
        }
        None => rushed(config, &client, &connections, arguments, stop).await?,
    };
    if arguments.keep {
        exports::print(config, campaign)?;
        stop.cancelled().await;
    }
    connections.close().await;
    Ok(ended)
}

/// The newest campaign that is open, or else the newest; `None` if the database is new.
async fn earlier_campaign(client: &Client) -> anyhow::Result<Option<CampaignId>> {
    let page = client.get("/v1/campaigns").await?;
    let campaigns = page["campaigns"].as_array().context("a page of campaigns")?;
    let open = campaigns.iter().find(|campaign| campaign["state"] == "open");
    let newest = open.or(campaigns.first()).map(|campaign| campaign["id"].clone());
    Ok(newest.map(serde_json::from_value).transpose()?)
}

/// Opens a campaign, lets the users rush, and prints what became of them.
async fn rushed(
    config: &Config,
    client: &Client,
    connections: &Connections,
    arguments: &Arguments,
    stop: &CancellationToken,
) -> anyhow::Result<(CampaignId, Ended)> {
    let &Arguments { coupons, users, rate, .. } = arguments;
    let users = usize::try_from(users)?;
    let campaign = open_campaign(client, coupons).await?;
    eprintln!("{users} users, each asking twice, for {coupons} coupons, at http://{}", config.http);

    let token = config.admin_token.as_ref().context("the demo has a token")?;
    let rush = Rush {
        addresses: vec![config.http],
        token: token.reveal().to_owned(),
        campaign,
        users,
        asks: ASKS_PER_USER,
        rate,
    };
    let results = tokio::select! {
        results = rush.run() => results,
        never = show_progress(connections, campaign, coupons) => never?,
        () = stop.cancelled() => bail!("interrupted"),
    };
    let sheet = drained(connections, config.shards).await?;
    let missing = missing(connections, &results).await?;
    report(&results, missing)?;
    say(format_args!("\n{sheet}"))?;

    let expected = usize::try_from(coupons)?.min(users);
    let kept = missing == 0 && results.errors == 0 && results.promised.len() == expected;
    if !kept {
        say(format_args!("expected {expected} promised coupons, none of them missing, and no errors"))?;
    }
    Ok((campaign, if sheet.is_balanced() && kept { Ended::Done } else { Ended::NotBalanced }))
}

async fn open_campaign(client: &Client, coupons: u32) -> anyhow::Result<CampaignId> {
    let now = OffsetDateTime::now_utc();
    let time = |time: OffsetDateTime| time.format(&Rfc3339);
    let body = json!({
        "name": "Demo", "merchant_id": "demo-merchant", "face_value": 5_000, "currency": "EUR",
        "quantity": coupons, "opens_at": time(now)?, "closes_at": time(now + CAMPAIGN_OPEN)?,
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
        let issued = prepared!(connections.pool, |connection| coupon::store::issued(connection, campaign))?;
        let position = "SELECT projection_position('wallet', 0::smallint)";
        let projected: i64 =
            prepared!(connections.pool, |connection| sqlx::query_scalar(position).fetch_one(connection))?;
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

async fn lookup(connections: &Connections, coupons: &[CouponId]) -> Result<i64, sqlx::Error> {
    prepared!(connections.pool, |connection| coupon::store::existing(connection, coupons))
}

/// How many coupons were promised and do not exist.
async fn missing(connections: &Connections, results: &Results) -> anyhow::Result<usize> {
    let promised: Vec<_> = results.promised.keys().copied().map(CouponId).collect();
    let there = lookup(connections, &promised).await.context("look up the promised coupons")?;
    Ok(promised.len() - usize::try_from(there)?)
}
