//! The balance sheet: gate = coupons = outbox = stream = projections, or the first that differs.

mod differences;

use std::collections::HashMap;

use async_nats::jetstream;
use futures_util::TryStreamExt as _;
use outbox_relay::Shard;
use outbox_relay::audit::{AuditError, ShardAudit, audit_shard};
use serde::Serialize;
use sqlx::Connection as _;
use uuid::Uuid;

use crate::app::Connections;
use crate::campaign::{CampaignId, SettleOn, State};
use crate::event::OUTLET;
use crate::issue::seats::Seats;

const GATE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// One campaign's line.
#[derive(Clone, Debug, Serialize)]
pub struct CampaignBalance {
    pub campaign_id: CampaignId,
    pub name: String,
    pub state: State,
    pub quantity: i64,
    /// Seats taken, without the pending; nothing when the gate is not loaded.
    pub gate: Option<i64>,
    pub pending: i64,
    pub issued: i64,
    pub redeemed: i64,
    pub cancelled: i64,
    pub expired: i64,
    pub outbox: i64,
    pub stream: i64,
    pub wallet: i64,
    /// Entries, and those that there have to be.
    pub settlement: i64,
    pub settlement_due: i64,
    /// Sum of the entries, in minor units.
    pub settlement_amount: i64,
    #[serde(skip)]
    face_value: i64,
}

impl CampaignBalance {
    fn coupons(&self) -> i64 {
        self.issued + self.redeemed + self.cancelled + self.expired
    }
}

/// One shard's line.
#[derive(Clone, Debug, Serialize)]
pub struct ShardBalance {
    pub shard: Shard,
    pub outbox: i64,
    pub stream: i64,
    pub projections: Vec<(String, i64)>,
}

/// The whole sheet.
#[derive(Clone, Debug, Serialize)]
pub struct Sheet {
    pub campaigns: Vec<CampaignBalance>,
    pub shards: Vec<ShardBalance>,
    /// The first thing that differs. Nothing: balanced.
    pub difference: Option<String>,
}

/// What to audit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope {
    pub campaign: Option<CampaignId>,
    /// Every event, seat and row by id, and not only ends and counts.
    pub full: bool,
}

/// Makes the sheet. What happens meanwhile may show as a difference: audit at rest, or ask again.
///
/// # Errors
/// When one of the servers cannot be asked.
pub async fn audit(connections: &Connections, shards: i16, scope: Scope) -> anyhow::Result<Sheet> {
    let mut campaigns = campaigns(connections, scope.campaign).await?;
    let gates = Seats::connect(&connections.redis, GATE_TIMEOUT).await?;
    let mut difference = None;
    for balance in &mut campaigns {
        if let Some((taken, pending)) = gates.clone().count(balance.campaign_id).await? {
            balance.gate = Some(taken - pending);
            balance.pending = pending;
        }
        balance.stream = issued_in_stream(connections, balance.campaign_id, shards).await?;
        if difference.is_none() {
            difference = differences::first(connections, gates.clone(), balance, scope.full).await?;
        }
    }
    let mut shard_balances = Vec::new();
    for shard in (0..shards).map(Shard) {
        let audited = audit_one_shard(connections, shard, scope.full).await?;
        difference = difference.or_else(|| audited.difference.clone()).or_else(|| behind(&audited));
        let ShardAudit { shard, head, stream, projections, .. } = audited;
        shard_balances.push(ShardBalance { shard, outbox: head, stream, projections });
    }
    let difference = difference.or_else(|| campaigns.iter().find_map(differences::in_stream));
    Ok(Sheet { campaigns, shards: shard_balances, difference })
}

async fn audit_one_shard(
    connections: &Connections,
    shard: Shard,
    full: bool,
) -> Result<ShardAudit, AuditError> {
    let mut connection = connections.pool.acquire().await?;
    audit_shard(&mut connection, &connections.nats, &OUTLET, shard, full).await
}

/// A projection that has not applied everything.
fn behind(audit: &ShardAudit) -> Option<String> {
    let late = |name: &str| {
        let applied =
            audit.projections.iter().find(|(known, _)| known == name).map_or(0, |(_, position)| *position);
        (applied != audit.head).then(|| {
            format!(
                "{name} has applied shard {} up to {applied}, the outbox ends at {}",
                audit.shard, audit.head
            )
        })
    };
    late("wallet").or_else(|| late("settlement"))
}

/// All counts of Postgres, as of one moment.
async fn campaigns(
    connections: &Connections,
    only: Option<CampaignId>,
) -> Result<Vec<CampaignBalance>, sqlx::Error> {
    type Counts = HashMap<Uuid, i64>;
    let mut connection = connections.pool.acquire().await?;
    let mut snapshot = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    sqlx::query("SET LOCAL statement_timeout = '10min'").execute(&mut *snapshot).await?;
    let only_id = only.map(|id| Uuid::from(id.0));
    let rows: Vec<(Uuid, String, String, i32, String, i64)> = sqlx::query_as(
        "SELECT id, name, state, quantity, settle_on, face_value FROM campaigns WHERE $1::uuid IS NULL OR id = $1 ORDER BY id",
    )
    .bind(only_id)
    .fetch_all(&mut *snapshot)
    .await?;
    let states: Vec<(Uuid, String, i64)> = sqlx::query_as(
        "SELECT campaign_id, state, count(*) FROM coupons WHERE $1::uuid IS NULL OR campaign_id = $1 GROUP BY 1, 2",
    )
    .bind(only_id)
    .fetch_all(&mut *snapshot)
    .await?;
    let outbox: HashMap<String, i64> = sqlx::query_as::<_, (String, i64)>(
        "SELECT key, count(*) FROM outbox WHERE type = 'issued' AND ($1::text IS NULL OR key = $1) GROUP BY 1",
    )
    .bind(only.map(|id| id.to_string()))
    .fetch_all(&mut *snapshot)
    .await?
    .into_iter()
    .collect();
    let wallet: Counts = sqlx::query_as::<_, (Uuid, i64)>(
        "SELECT campaign_id, count(*) FROM wallet WHERE $1::uuid IS NULL OR campaign_id = $1 GROUP BY 1",
    )
    .bind(only_id)
    .fetch_all(&mut *snapshot)
    .await?
    .into_iter()
    .collect();
    let settlement: HashMap<Uuid, (i64, i64)> = sqlx::query_as::<_, (Uuid, i64, i64)>(
        "SELECT campaign_id, count(*), sum(amount)::bigint FROM settlement_entries \
         WHERE $1::uuid IS NULL OR campaign_id = $1 GROUP BY 1",
    )
    .bind(only_id)
    .fetch_all(&mut *snapshot)
    .await?
    .into_iter()
    .map(|(id, count, amount)| (id, (count, amount)))
    .collect();
    snapshot.rollback().await?;

    let decode = |error: crate::campaign::UnknownWord| sqlx::Error::Decode(Box::new(error));
    rows.into_iter()
        .map(|(id, name, state, quantity, settle_on, face_value)| {
            let campaign_id = CampaignId(id.into());
            let of_state = |word: &str| {
                states
                    .iter()
                    .find(|(of, state, _)| *of == id && state == word)
                    .map_or(0, |(_, _, count)| *count)
            };
            let (settled, amount) = settlement.get(&id).copied().unwrap_or_default();
            let mut balance = CampaignBalance {
                campaign_id,
                name,
                state: state.parse().map_err(decode)?,
                quantity: i64::from(quantity),
                gate: None,
                pending: 0,
                issued: of_state("issued"),
                redeemed: of_state("redeemed"),
                cancelled: of_state("cancelled"),
                expired: of_state("expired"),
                outbox: outbox.get(&campaign_id.to_string()).copied().unwrap_or_default(),
                stream: 0,
                wallet: wallet.get(&id).copied().unwrap_or_default(),
                settlement: settled,
                settlement_due: 0,
                settlement_amount: amount,
                face_value,
            };
            balance.settlement_due = match settle_on.parse().map_err(decode)? {
                SettleOn::Issue => balance.coupons(),
                SettleOn::Redeem => balance.redeemed,
            };
            Ok(balance)
        })
        .collect()
}

async fn issued_in_stream(
    connections: &Connections,
    campaign: CampaignId,
    shards: i16,
) -> anyhow::Result<i64> {
    let shard = campaign.shard(shards);
    let context = jetstream::new(connections.nats.clone());
    let Ok(stream) = context.get_stream(OUTLET.stream_of(shard)).await else { return Ok(0) };
    let subject = OUTLET.subject(crate::event::ISSUED, &campaign.to_string(), shard);
    let mut counts = stream.info_with_subjects(subject).await?;
    let count = counts.try_next().await?.map_or(0, |(_, count)| count);
    Ok(i64::try_from(count)?)
}

impl Sheet {
    /// Whether everything agrees.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.difference.is_none()
    }
}

impl std::fmt::Display for Sheet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:<26} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10}",
            "campaign", "quantity", "gate", "coupons", "outbox", "stream", "wallet", "settlement"
        )?;
        for c in &self.campaigns {
            let gate = c.gate.map_or_else(|| "-".to_owned(), |gate| gate.to_string());
            writeln!(
                f,
                "{:<26} {:>9} {gate:>9} {:>9} {:>9} {:>9} {:>9} {:>10}",
                c.campaign_id.to_string(),
                c.quantity,
                c.coupons(),
                c.outbox,
                c.stream,
                c.wallet,
                c.settlement
            )?;
        }
        writeln!(f, "{:<26} {:>9} {:>9}  applied", "shard", "outbox", "stream")?;
        for s in &self.shards {
            let applied: Vec<_> =
                s.projections.iter().map(|(name, position)| format!("{name} {position}")).collect();
            writeln!(
                f,
                "{:<26} {:>9} {:>9}  {}",
                s.shard.to_string(),
                s.outbox,
                s.stream,
                applied.join(", ")
            )?;
        }
        match &self.difference {
            Some(difference) => write!(f, "not balanced: {difference}"),
            None => write!(f, "balanced"),
        }
    }
}
