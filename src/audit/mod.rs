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
mod reading;
mod rows;
mod seats;
mod serials;
mod sheet;

use std::time::Duration;

use outbox_relay::Shard;
use outbox_relay::audit::{self, ShardAudit, audit_shard};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgTransaction};

pub use self::auditor::{Auditor, Verdict};
use self::reading::Reading;
pub use self::sheet::{CampaignBalance, Compared, Counted, ShardBalance, Sheet};
use crate::connections::Connections;
use crate::event::OUTLET;
use crate::ids::CampaignId;

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
/// When one of the servers cannot be asked, or there is no such campaign.
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

/// A side that does not go as far as the outbox.
#[derive(Clone, Debug)]
struct Lag {
    /// Which, and how far it goes: the same for as long as it stands still.
    at: String,
    /// The same, and how far the outbox goes.
    difference: String,
}

impl From<audit::Lag> for Lag {
    fn from(lag: audit::Lag) -> Self {
        let audit::StreamEnd { stream, sequence } = lag.at;
        Self { at: format!("stream {stream} at {sequence:?}"), difference: lag.difference.to_string() }
    }
}

/// The projections that have not applied everything.
fn behind(audit: &ShardAudit) -> impl Iterator<Item = Lag> {
    let ShardAudit { shard, head, .. } = audit;
    let applied = PROJECTIONS.map(|name| (name, audit.applied(name)));
    applied.into_iter().filter(move |(_, applied)| applied != head).map(move |(name, applied)| {
        let at = format!("{name} has applied shard {shard} up to {applied}");
        Lag { difference: format!("{at}, the outbox ends at {head}"), at }
    })
}
