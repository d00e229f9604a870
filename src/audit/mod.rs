//! The balance sheet: gate = coupons = outbox = stream = projections, or the first that differs.
//!
//! In three speeds. **Quick**, at a cost that grows with the number of campaigns and not of coupons, it
//! reads ends and counts that the servers keep anyway. It proves that no more coupons were numbered than
//! there may be, that the gate has confirmed as many seats, that the stream ends where the outbox ends
//! and lacks nothing on the way, that it holds as many issues of each campaign as coupons were numbered,
//! and that the projections have reached the end. It cannot see a row that was changed, exchanged or
//! taken from the middle of a table, a message with another content, or a seat that went to somebody
//! else; and it does not count states of coupons, outbox rows of a campaign, wallet and settlement,
//! whose columns stay empty. When the gate has confirmed another number of seats, it looks through
//! all of them for the one to name. Three million coupons take it 20 ms.
//!
//! In **full** every event is compared with its message, every event with its coupon, every coupon with
//! its seat, its place in the wallet and its settlement, in batches, so that memory stays bounded; and
//! all rows are counted, so that nothing is there that does not belong there.
//!
//! **Continuously** the [`Auditor`] does both, bit by bit.

mod auditor;
mod differences;
mod figures;
mod rows;
mod seats;
mod sheet;

use std::time::Duration;

use indicatif::ProgressBar;
use outbox_relay::Shard;
use outbox_relay::audit::{Comparison, ShardAudit, audit_shard, compare};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgTransaction};

pub use self::auditor::{Auditor, Verdict};
use self::rows::Rows;
pub use self::sheet::{CampaignBalance, Compared, Counted, ShardBalance, Sheet};
use crate::campaign::CampaignId;
use crate::connections::Connections;
use crate::event::OUTLET;
use crate::issue::seats::Seats;
use crate::progress::progress_bar;

const GATE_TIMEOUT: Duration = Duration::from_secs(5);
/// Whoever has to have applied every event.
pub const PROJECTIONS: [&str; 2] = ["wallet", "settlement"];
/// Counting ten million rows takes its time; everything else is in batches.
const STATEMENT_TIMEOUT: &str = "10min";
/// Batches are looked up by index, whatever the planner knows of tables that were empty a minute ago.
const PLANS: [(&str, &str); 4] = [
    ("statement_timeout", STATEMENT_TIMEOUT),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// What to audit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope {
    pub campaign: Option<CampaignId>,
    /// Every event, seat and row, and not only ends and counts.
    pub full: bool,
}

/// Makes the sheet. What happens meanwhile may show as a difference: audit at rest, or ask again.
///
/// # Errors
/// When one of the servers cannot be asked.
pub async fn audit(connections: &Connections, shards: i16, scope: Scope) -> anyhow::Result<Sheet> {
    let reading = Reading::start(connections, shards, scope.campaign).await?;
    if scope.full { reading.full().await } else { reading.quick().await }
}

/// A connection of its own: the pool's are for short statements.
async fn connect(database: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    database.clone().options(PLANS).connect().await
}

/// One snapshot for statements that read all rows of a table.
async fn snapshot(connection: &mut PgConnection) -> Result<PgTransaction<'_>, sqlx::Error> {
    let mut snapshot = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    sqlx::query("SET LOCAL enable_seqscan = on").execute(&mut *snapshot).await?;
    Ok(snapshot)
}

/// A sheet that is being made.
struct Reading<'a> {
    connections: &'a Connections,
    connection: PgConnection,
    gates: Seats,
    only: Option<CampaignId>,
    shards: Vec<ShardAudit>,
    campaigns: Vec<CampaignBalance>,
}

impl<'a> Reading<'a> {
    /// Reads what can be had without counting rows.
    async fn start(
        connections: &'a Connections,
        shards: i16,
        only: Option<CampaignId>,
    ) -> anyhow::Result<Self> {
        let mut connection = connect(&connections.database).await?;
        let mut gates = Seats::connect(&connections.redis, GATE_TIMEOUT).await?;
        let audited = ends(connections, &mut connection, shards).await?;
        let campaigns = figures::read(connections, &mut connection, &mut gates, shards, only).await?;
        Ok(Self { connections, connection, gates, only, shards: audited, campaigns })
    }

    async fn quick(mut self) -> anyhow::Result<Sheet> {
        let mut difference = None;
        for index in 0..self.campaigns.len() {
            difference = match difference {
                None => self.named(index).await?,
                known => known,
            };
        }
        let difference = difference.or_else(|| self.in_streams()).or_else(|| self.in_shards());
        Ok(self.sheet(difference, &[]))
    }

    async fn full(mut self) -> anyhow::Result<Sheet> {
        let bar = progress_bar(self.work());
        let comparisons = self.compare_events(&bar).await?;
        let mut rows = self.compare_rows(&bar).await?;
        let stranger = figures::count(&mut self.connection, &mut self.campaigns, self.only).await?;
        let mut difference = None;
        for index in 0..self.campaigns.len() {
            if difference.is_none() {
                difference = self.in_campaign(index, &mut rows, &bar).await?;
            }
        }
        bar.finish_and_clear();
        let unknown = rows.differences.into_iter().next();
        let difference = difference
            .or_else(|| unknown.map(|(id, named)| format!("campaign {id}: {named}")))
            .or(stranger)
            .or_else(|| comparisons.iter().find_map(|found| found.first_difference.clone()))
            .or_else(|| self.in_shards())
            .or_else(|| self.in_streams());
        Ok(self.sheet(difference, &comparisons))
    }

    /// Steps of the bar: each event twice, and each coupon's seat.
    fn work(&self) -> i64 {
        let events: i64 =
            self.shards.iter().map(|shard| shard.end() + shard.head - 2 * (shard.first - 1)).sum();
        events
            + self.campaigns.iter().filter(|balance| balance.gate.is_some()).map(|c| c.coupons).sum::<i64>()
    }

    async fn compare_events(&mut self, bar: &ProgressBar) -> anyhow::Result<Vec<Comparison>> {
        let mut comparisons = Vec::new();
        for shard in &self.shards {
            let part = (shard.first - 1, shard.end());
            let nats = &self.connections.nats;
            let progress = |positions| bar.inc(positions);
            comparisons
                .push(compare(&mut self.connection, nats, &OUTLET, shard.shard, part, progress).await?);
        }
        Ok(comparisons)
    }

    async fn compare_rows(&mut self, bar: &ProgressBar) -> anyhow::Result<Rows> {
        let mut rows = Rows::of(self.only);
        for shard in &self.shards {
            let part = (shard.first - 1, shard.head);
            rows.compare(&mut self.connection, shard.shard, part, |positions| bar.inc(positions)).await?;
        }
        for index in 0..self.campaigns.len() {
            let CampaignBalance { campaign_id, coupons, .. } = self.campaigns[index];
            let whole = self.is_whole(index);
            rows.compare_untold(&mut self.connection, campaign_id, coupons, whole).await?;
        }
        Ok(rows)
    }

    /// What differs in a campaign by its figures, and the coupon in which it does.
    async fn in_campaign(
        &mut self,
        index: usize,
        rows: &mut Rows,
        bar: &ProgressBar,
    ) -> anyhow::Result<Option<String>> {
        let balance = &self.campaigns[index];
        let (id, loaded) = (balance.campaign_id, balance.gate.is_some());
        let contradiction = differences::at_rest(balance, self.is_whole(index));
        let mut named = rows.differences.remove(&id);
        if named.is_none() && contradiction.is_some() {
            named = rows::too_much(&mut self.connection, id).await?;
        }
        if named.is_none() && loaded {
            let (pool, gates) = (&self.connections.pool, &mut self.gates);
            named = seats::first_difference(pool, gates, id, |coupons| bar.inc(coupons)).await?;
        }
        Ok(match (contradiction, named) {
            (Some(contradiction), Some(named)) => Some(format!("{contradiction}; {named}")),
            (None, Some(named)) => Some(format!("campaign {id}: {named}")),
            (contradiction, None) => contradiction,
        })
    }

    /// What differs in a campaign by its quick figures. If it is the seats, they are looked through.
    async fn named(&mut self, index: usize) -> anyhow::Result<Option<String>> {
        let balance = &self.campaigns[index];
        let Some(contradiction) = differences::at_rest(balance, self.is_whole(index)) else {
            return Ok(None);
        };
        let named = match balance.gate {
            Some(_) => {
                let pool = &self.connections.pool;
                seats::first_difference(pool, &mut self.gates, balance.campaign_id, drop).await?
            }
            None => None,
        };
        Ok(Some(named.map_or(contradiction.clone(), |named| format!("{contradiction}; {named}"))))
    }

    fn in_streams(&self) -> Option<String> {
        let whole = |balance: &&CampaignBalance| {
            self.shards.iter().any(|audited| audited.shard == balance.shard && audited.is_whole())
        };
        self.campaigns.iter().filter(whole).find_map(differences::in_stream)
    }

    fn in_shards(&self) -> Option<String> {
        let contradiction = |shard: &ShardAudit| shard.contradiction().or_else(|| shard.lag());
        self.shards.iter().find_map(contradiction).or_else(|| self.shards.iter().find_map(behind))
    }

    /// Whether the outbox still holds every event of a campaign.
    fn is_whole(&self, index: usize) -> bool {
        let shard = self.campaigns[index].shard;
        self.shards.iter().find(|audited| audited.shard == shard).is_none_or(|audited| audited.first == 1)
    }

    fn sheet(self, difference: Option<String>, comparisons: &[Comparison]) -> Sheet {
        let shards = self.shards.iter().enumerate();
        let shards = shards.map(|(index, shard)| ShardBalance::new(shard, comparisons.get(index))).collect();
        Sheet { campaigns: self.campaigns, shards, difference }
    }
}

/// The ends of every shard.
async fn ends(
    connections: &Connections,
    connection: &mut PgConnection,
    shards: i16,
) -> anyhow::Result<Vec<ShardAudit>> {
    let mut audited = Vec::new();
    for shard in (0..shards).map(Shard) {
        audited.push(audit_shard(connection, &connections.nats, &OUTLET, shard).await?);
    }
    Ok(audited)
}

/// A projection that has not applied everything.
fn behind(audit: &ShardAudit) -> Option<String> {
    PROJECTIONS.iter().find_map(|name| {
        let applied = audit.applied(name);
        (applied != audit.head).then(|| {
            format!(
                "{name} has applied shard {} up to {applied}, the outbox ends at {}",
                audit.shard, audit.head
            )
        })
    })
}
