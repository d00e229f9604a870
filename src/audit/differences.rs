//! What differs in one campaign, named.

use sqlx::PgConnection;
use ulid::Ulid;
use uuid::Uuid;

use super::CampaignBalance;
use crate::app::Connections;
use crate::campaign::CampaignId;
use crate::issue::seats::{Seat, Seats};
use crate::issue::sweeper;

/// Seats compared at a time.
const CHUNK: i64 = 1_000;

/// Compares the columns of one campaign, and names the first coupon that is not everywhere. With
/// `full` the rows are compared even where their numbers agree.
pub(super) async fn first(
    connections: &Connections,
    gates: Seats,
    balance: &CampaignBalance,
    full: bool,
) -> anyhow::Result<Option<String>> {
    let coupons = balance.coupons();
    let id = balance.campaign_id;
    if coupons > balance.quantity {
        return Ok(Some(format!("campaign {id}: {coupons} coupons of {}", balance.quantity)));
    }
    let uneven = balance.gate.is_some_and(|gate| gate != coupons) || balance.pending > 0;
    let named = match balance.gate {
        Some(_) if uneven || full => seat(connections, gates, id).await?,
        _ => None,
    };
    if uneven || named.is_some() {
        let gate = balance.gate.unwrap_or_default();
        return Ok(Some(format!(
            "campaign {id}: {coupons} coupons, {gate} seats taken and {} pending{}",
            balance.pending,
            named.map(|named| format!("; {named}")).unwrap_or_default(),
        )));
    }
    let mut connection = connections.pool.acquire().await?;
    for (place, count, expected) in [
        (Place::Outbox, balance.outbox, coupons),
        (Place::Wallet, balance.wallet, coupons),
        (Place::Settlement, balance.settlement, balance.settlement_due),
    ] {
        if count == expected && !full {
            continue;
        }
        let named = place.first_difference(&mut connection, id).await?;
        if count != expected || named.is_some() {
            return Ok(Some(format!(
                "campaign {id}: {expected} coupons count, {count} are in the {}{}",
                place.name(),
                named.map(|coupon| format!("; the first that differs is {coupon}")).unwrap_or_default(),
            )));
        }
    }
    // The full audit of the shard can say which event it is, and is asked first.
    if !full && let Some(difference) = in_stream(balance) {
        return Ok(Some(difference));
    }
    if balance.settlement_amount != balance.settlement_due * balance.face_value {
        return Ok(Some(format!(
            "campaign {id}: {} coupons of {} settle to {}",
            balance.settlement_due, balance.face_value, balance.settlement_amount
        )));
    }
    Ok(None)
}

/// The stream holds another number of coupons.
pub(super) fn in_stream(balance: &CampaignBalance) -> Option<String> {
    let (id, coupons) = (balance.campaign_id, balance.coupons());
    (balance.stream != coupons)
        .then(|| format!("campaign {id}: {coupons} coupons, {} in the stream", balance.stream))
}

#[derive(Clone, Copy)]
enum Place {
    Outbox,
    Wallet,
    Settlement,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Wallet => "wallet",
            Self::Settlement => "settlement",
        }
    }

    /// The first coupon of a campaign that is only here, or only there, or not the same.
    async fn first_difference(
        self,
        connection: &mut PgConnection,
        campaign: CampaignId,
    ) -> Result<Option<String>, sqlx::Error> {
        let statement = match self {
            Self::Outbox => {
                "SELECT coalesce(c.id::text, o.subject) FROM (SELECT * FROM coupons WHERE campaign_id = $1) AS c \
                 FULL JOIN (SELECT *, (data ->> 'number')::int AS number FROM outbox WHERE type = 'issued' AND key = $2) AS o \
                 USING (number) WHERE c.id IS NULL OR o.subject IS NULL OR o.data ->> 'user_id' <> c.user_id ORDER BY number LIMIT 1"
            }
            Self::Wallet => {
                "SELECT id::text FROM (SELECT c.*, m.face_value, m.currency, $2::text AS key \
                  FROM coupons AS c JOIN campaigns AS m ON m.id = c.campaign_id WHERE m.id = $1) AS c \
                 FULL JOIN (SELECT *, coupon_id AS id FROM wallet WHERE campaign_id = $1) AS w USING (id) \
                 WHERE c.key IS NULL OR w.coupon_id IS NULL \
                    OR (w.user_id, w.number, w.face_value, w.currency, w.issued_at, w.expires_at) \
                    <> (c.user_id, c.number, c.face_value, c.currency, c.issued_at, c.expires_at) ORDER BY id LIMIT 1"
            }
            Self::Settlement => {
                "SELECT id::text FROM (SELECT c.id, m.merchant_id, m.face_value, m.currency, $2::text AS key \
                  FROM coupons AS c JOIN campaigns AS m ON m.id = c.campaign_id \
                  WHERE m.id = $1 AND (m.settle_on = 'issue' OR c.state = 'redeemed')) AS c \
                 FULL JOIN (SELECT *, coupon_id AS id FROM settlement_entries WHERE campaign_id = $1) AS s USING (id) \
                 WHERE c.key IS NULL OR s.coupon_id IS NULL \
                    OR (s.merchant_id, s.amount, s.currency) <> (c.merchant_id, c.face_value, c.currency) ORDER BY id LIMIT 1"
            }
        };
        let id: Option<String> = sqlx::query_scalar(statement)
            .bind(Uuid::from(campaign.0))
            .bind(campaign.to_string())
            .fetch_optional(connection)
            .await?;
        Ok(id.map(|id| Uuid::parse_str(&id).map_or(id, |id| Ulid::from(id).to_string())))
    }
}

/// The first coupon without a seat, or seat without a coupon.
async fn seat(
    connections: &Connections,
    mut gates: Seats,
    campaign: CampaignId,
) -> anyhow::Result<Option<String>> {
    if let Some(coupon) = without_seat(connections, gates.clone(), campaign).await? {
        return Ok(Some(format!("coupon {coupon} has no seat")));
    }
    let mut cursor = 0;
    loop {
        let seats;
        (cursor, seats) = gates.scan(campaign, cursor, CHUNK).await?;
        let held = sweeper::with_coupon(&connections.pool, campaign, &seats).await?;
        if let Some(seat) = seats.iter().find(|seat| !held.contains(seat)) {
            return Ok(Some(format!("seat {seat} has no coupon")));
        }
        if cursor == 0 {
            return Ok(None);
        }
    }
}

/// The first coupon whose holder has no seat in the gate.
async fn without_seat(
    connections: &Connections,
    mut gates: Seats,
    campaign: CampaignId,
) -> anyhow::Result<Option<Ulid>> {
    let mut number = 0;
    loop {
        let rows: Vec<(Uuid, String, i32, i32)> = sqlx::query_as(
            "SELECT id, user_id, nth, number FROM coupons WHERE campaign_id = $1 AND number > $2 ORDER BY number LIMIT $3",
        )
        .bind(Uuid::from(campaign.0))
        .bind(number)
        .bind(CHUNK)
        .fetch_all(&connections.pool)
        .await?;
        let Some((_, _, _, last)) = rows.last() else { return Ok(None) };
        number = *last;
        let seats: Vec<Seat> = rows.iter().map(|(_, user, nth, _)| Seat::new(user.as_str(), *nth)).collect();
        let taken = gates.are_taken(campaign, &seats).await?;
        if let Some((row, _)) = rows.iter().zip(taken).find(|(_, taken)| !taken) {
            return Ok(Some(row.0.into()));
        }
    }
}
