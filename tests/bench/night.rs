//! What a night brings besides one hot campaign: many campaigns, users who lose or ask again, and users who read.

use std::time::Duration;

use anyhow::{Result, ensure};
use coupon_dispatcher::ids::CampaignId;
use sqlx::{Connection as _, PgConnection};
use ulid::Ulid;
use uuid::Uuid;

use crate::load::{Answers, Targets, claim_on, head, projected};
use crate::service::{Service, client, create_campaign};
use crate::support::wait_until;

/// Users with a coupon of the campaign that is sold out.
const WINNERS: usize = 20_000;
/// Quiet campaigns beside a hot one.
pub(crate) const QUIET: usize = 50;
/// Connections of the client that claims on quiet campaigns: few, so that hardly any of the load is theirs.
const QUIET_CONNECTIONS: usize = 8;
/// For the refusals to be remembered, and for the plans to be made.
const WARM_UP_SECONDS: u64 = 1;
const MANY: &str = "INSERT INTO campaigns (id, shard, name, merchant_id, face_value, currency, quantity, \
    per_user_limit, opens_at, closes_at, coupon_valid_for, settle_on, state) \
    SELECT id, 0, 'Bench', 'bench', 100, 'EUR', 1000000, 1, now(), now() + interval '1 day', 86400, 'issue', 'open' \
    FROM unnest($1::uuid[]) AS id";

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    SoldOut,
    NotOpen,
    Closed,
    AskedAgain,
    Wallet,
    Coupon,
    Campaign,
}

/// A service with campaigns in all states, one of them sold out.
#[derive(Debug)]
pub(crate) struct Night {
    sold_out: String,
    not_open: String,
    closed: String,
    coupons: Vec<Uuid>,
}

impl Night {
    pub(crate) async fn begin(service: &Service) -> Result<Self> {
        let address = service.address;
        let sold_out = create_campaign(address, i32::try_from(WINNERS)?, Duration::ZERO).await?;
        let not_open = create_campaign(address, 1, Duration::from_secs(86_400)).await?;
        let closed = create_campaign(address, 1, Duration::ZERO).await?;
        client(address).post(&format!("/v1/campaigns/{closed}/close"), None).await?;
        let mut database = PgConnection::connect(&service.servers.database_url()).await?;
        let winners = Targets::new(winners(&sold_out))?;
        let coupons = loop {
            service.wrk(WARM_UP_SECONDS, &winners, "").await?;
            let coupons: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM coupons WHERE campaign_id = $1")
                .bind(Uuid::from(sold_out.parse::<CampaignId>()?.0))
                .fetch_all(&mut database)
                .await?;
            if coupons.len() == WINNERS {
                break coupons;
            }
        };
        Ok(Self { sold_out, not_open, closed, coupons })
    }

    /// Answers to one kind of request, by users who are drawn anew in each `run`.
    pub(crate) async fn measure(
        &self,
        service: &Service,
        kind: Kind,
        run: usize,
        seconds: u64,
    ) -> Result<Answers> {
        let targets = Targets::new(match kind {
            Kind::SoldOut => vec![claim_on(&self.sold_out)],
            Kind::NotOpen => vec![claim_on(&self.not_open)],
            Kind::Closed => vec![claim_on(&self.closed)],
            Kind::AskedAgain => winners(&self.sold_out).collect(),
            Kind::Wallet => (0..WINNERS).map(|user| format!("GET /v1/users/w{user}/coupons")).collect(),
            Kind::Coupon => {
                self.coupons.iter().map(|id| format!("GET /v1/coupons/{}", Ulid::from(*id))).collect()
            }
            Kind::Campaign => vec![format!("GET /v1/campaigns/{}", self.sold_out)],
        })?;
        let first = format!("n{run}-");
        service.wrk(WARM_UP_SECONDS, &targets, &first).await?;
        let answers = service.wrk(seconds, &targets, &format!("{first}-")).await?;
        let is_read = matches!(kind, Kind::Wallet | Kind::Coupon | Kind::Campaign);
        let others = if is_read { answers.refused } else { answers.count - answers.refused };
        ensure!(others == 0.0, "{kind:?}: {others} of {} answers were others", answers.count);
        Ok(answers)
    }
}

/// A hot campaign, that of the service, and quiet ones of the same shard.
#[derive(Debug)]
pub(crate) struct Beside {
    hot: Targets,
    quiet: Targets,
}

impl Beside {
    pub(crate) async fn begin(service: &Service) -> Result<Self> {
        let mut quiet = campaigns(service, QUIET).await?;
        quiet.connections = QUIET_CONNECTIONS;
        Ok(Self { hot: Targets::new([claim_on(&service.campaign)])?, quiet })
    }

    /// Claims on the hot campaign at full rate, and at the same time on the quiet ones by a client of their own. Returns
    /// the answers to both, when all issues are projected.
    pub(crate) async fn measure(&self, service: &Service, run: usize, seconds: u64) -> Result<[Answers; 2]> {
        let first = format!("b{run}");
        let (hot, quiet) = tokio::try_join!(
            service.wrk(seconds, &self.hot, &first),
            service.wrk(seconds, &self.quiet, &first)
        )?;
        for answers in [hot, quiet] {
            ensure!(answers.refused == 0.0, "{} of {} claims were refused", answers.refused, answers.count);
        }
        let mut connection = PgConnection::connect(&service.servers.database_url()).await?;
        let issued = head(&mut connection).await?;
        wait_until(async || Ok(projected(&mut connection).await? >= issued)).await?;
        Ok([hot, quiet])
    }
}

/// Open campaigns whose gates are loaded.
pub(crate) async fn campaigns(service: &Service, count: usize) -> Result<Targets> {
    let ids: Vec<Ulid> = (0..count).map(|_| Ulid::generate()).collect();
    let mut database = PgConnection::connect(&service.servers.database_url()).await?;
    let uuids: Vec<Uuid> = ids.iter().map(|id| Uuid::from(*id)).collect();
    sqlx::query(MANY).bind(uuids).execute(&mut database).await?;
    let targets = Targets::new(ids.iter().map(|id| claim_on(&id.to_string())))?;
    // The first claims load the gates, and are refused.
    let mut redis =
        redis::Client::open(service.servers.redis_url())?.get_multiplexed_async_connection().await?;
    let gates: Vec<String> = ids.iter().map(|id| format!("gate1:{{{id}}}")).collect();
    while redis::cmd("EXISTS").arg(&gates).query_async::<usize>(&mut redis).await? < count {
        service.wrk(WARM_UP_SECONDS, &targets, &Ulid::generate().to_string()).await?;
    }
    Ok(targets)
}

fn winners(campaign: &str) -> impl Iterator<Item = String> {
    let claim = claim_on(campaign);
    (0..WINNERS).map(move |user| format!("{claim} w{user}"))
}
