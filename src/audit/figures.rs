//! What the sheet says of the campaigns, as it is read.

use std::collections::HashMap;

use outbox_relay::event::id_of;
use outbox_relay::stream;
use outbox_relay::{Outlet, Shard};
use sqlx::{PgConnection, Row as _};
use ulid::Ulid;
use uuid::Uuid;

use super::sheet::{CampaignBalance, Counted};
use super::snapshot;
use crate::campaign::SettleOn;
use crate::connections::Connections;
use crate::event::{ISSUED, OUTLET};
use crate::gate::redis::Seats;
use crate::ids::CampaignId;

/// What can be had without counting rows, at a cost that grows with the number of campaigns alone.
/// Stream and gate first, coupons last: what is on its way can put each behind the next.
pub(super) async fn read(
    connections: &Connections,
    connection: &mut PgConnection,
    gates: &mut Seats,
    shards: i16,
    only: Option<CampaignId>,
) -> anyhow::Result<Vec<CampaignBalance>> {
    let mut balances = campaigns(connection, only).await?;
    let in_stream = in_stream(connections, shards, only).await?;
    for balance in &mut balances {
        balance.stream = in_stream.get(&balance.campaign_id.to_string()).copied().unwrap_or_default();
        if let Some((taken, pending)) = gates.count(balance.campaign_id).await? {
            balance.gate = Some(taken - pending);
            balance.pending = pending;
        }
    }
    let numbers = numbers(connection, only).await?;
    for balance in &mut balances {
        balance.coupons = numbers.get(&Uuid::from(balance.campaign_id.0)).copied().unwrap_or_default().into();
    }
    Ok(balances)
}

async fn campaigns(
    connection: &mut PgConnection,
    only: Option<CampaignId>,
) -> Result<Vec<CampaignBalance>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT id, shard, name, state, quantity, settle_on, face_value FROM campaigns \
         WHERE $1::uuid IS NULL OR id = $1 ORDER BY id",
    )
    .bind(only.map(|id| Uuid::from(id.0)))
    .fetch_all(connection)
    .await?;
    let balance = |row: sqlx::postgres::PgRow| {
        Ok(CampaignBalance {
            campaign_id: row.try_get("id")?,
            shard: Shard(row.try_get("shard")?),
            name: row.try_get("name")?,
            state: row.try_get("state")?,
            quantity: row.try_get::<i32, _>("quantity")?.into(),
            settle_on: row.try_get("settle_on")?,
            face_value: row.try_get("face_value")?,
            gate: None,
            pending: 0,
            coupons: 0,
            stream: 0,
            counted: None,
        })
    };
    rows.into_iter().map(balance).collect()
}

/// The highest number of each campaign, from the end of an index.
async fn numbers(
    connection: &mut PgConnection,
    only: Option<CampaignId>,
) -> Result<HashMap<Uuid, i32>, sqlx::Error> {
    let rows: Vec<(Uuid, i32)> = sqlx::query_as(
        "SELECT id, coalesce((SELECT number FROM coupons WHERE campaign_id = campaigns.id \
                              ORDER BY number DESC LIMIT 1), 0) \
         FROM campaigns WHERE $1::uuid IS NULL OR id = $1",
    )
    .bind(only.map(|id| Uuid::from(id.0)))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Issues in the streams, by the key of their campaign. The server counts by subject.
async fn in_stream(
    connections: &Connections,
    shards: i16,
    only: Option<CampaignId>,
) -> anyhow::Result<HashMap<String, i64>> {
    let Outlet { subjects, .. } = OUTLET;
    let prefix = format!("{subjects}.{ISSUED}.");
    let key = only.map_or_else(|| "*".to_owned(), |id| id.to_string());
    let mut counts = HashMap::new();
    for shard in (0..shards).map(Shard) {
        let filter = OUTLET.subject(ISSUED, &key, shard);
        for (subject, count) in stream::counts(&connections.nats, &OUTLET.stream_of(shard), &filter).await? {
            let key = subject.strip_prefix(&prefix).and_then(|rest| rest.split('.').next());
            counts.insert(key.unwrap_or_default().to_owned(), i64::try_from(count)?);
        }
    }
    Ok(counts)
}

/// Counts the rows of all tables, as of one moment. Answers what belongs to no campaign.
pub(super) async fn count(
    connection: &mut PgConnection,
    balances: &mut [CampaignBalance],
    only: Option<CampaignId>,
) -> Result<Option<String>, sqlx::Error> {
    let mut snapshot = snapshot(connection).await?;
    let id = only.map(|id| Uuid::from(id.0));
    let states: Vec<(Uuid, String, i64)> = sqlx::query_as(
        "SELECT campaign_id, state, count(*) FROM coupons WHERE $1::uuid IS NULL OR campaign_id = $1 GROUP BY 1, 2",
    )
    .bind(id)
    .fetch_all(&mut *snapshot)
    .await?;
    let outbox: Vec<(String, i64)> = sqlx::query_as(
        "SELECT key, count(*) FROM outbox WHERE type = $2 AND ($1::text IS NULL OR key = $1) GROUP BY 1",
    )
    .bind(only.map(|id| id.to_string()))
    .bind(ISSUED)
    .fetch_all(&mut *snapshot)
    .await?;
    let wallet: Vec<(Uuid, i64)> = sqlx::query_as(
        "SELECT campaign_id, count(*) FROM wallet WHERE $1::uuid IS NULL OR campaign_id = $1 GROUP BY 1",
    )
    .bind(id)
    .fetch_all(&mut *snapshot)
    .await?;
    let settlement: Vec<(Uuid, i64, i64)> = sqlx::query_as(
        "SELECT campaign_id, count(*), sum(amount)::bigint FROM settlement_entries \
         WHERE $1::uuid IS NULL OR campaign_id = $1 GROUP BY 1",
    )
    .bind(id)
    .fetch_all(&mut *snapshot)
    .await?;
    snapshot.rollback().await?;

    let mut counts: HashMap<Ulid, Counted> = HashMap::new();
    for (id, state, count) in states {
        let counted = counts.entry(id.into()).or_default();
        match state.as_str() {
            "redeemed" => counted.redeemed = count,
            "cancelled" => counted.cancelled = count,
            "expired" => counted.expired = count,
            _ => counted.issued += count, // a constraint knows no other word
        }
    }
    for (key, count) in outbox {
        counts.entry(id_of(&key).unwrap_or_default()).or_default().outbox = count;
    }
    for (id, count) in wallet {
        counts.entry(id.into()).or_default().wallet = count;
    }
    for (id, count, amount) in settlement {
        let counted = counts.entry(id.into()).or_default();
        (counted.settlement, counted.settlement_amount) = (count, amount);
    }
    for balance in balances {
        let mut counted = counts.remove(&balance.campaign_id.0).unwrap_or_default();
        counted.settlement_due = match balance.settle_on {
            SettleOn::Issue => counted.coupons(),
            SettleOn::Redeem => counted.redeemed,
        };
        balance.counted = Some(counted);
    }
    let stranger = counts.keys().min().filter(|_| only.is_none());
    Ok(stranger.map(|id| format!("there are rows of campaign {id}, and no such campaign")))
}
