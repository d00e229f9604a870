//! The changes of coupons: each in the outbox, in the wallet and, where it counts, in the settlement.

use std::collections::HashMap;

use outbox_relay::event::StoredEvent;
use outbox_relay::in_time::{InTime as _, SCAN_TIMEOUT};
use outbox_relay::strict::id_of;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::projected::applied_up_to;
use crate::audit::campaigns::{Campaign, Campaigns};
use crate::audit::chunk::Chunk;
use crate::audit::difference::{Difference, LegName, Mismatch};
use crate::audit::leg::{Asking, Field, Leg};
use crate::audit::sources::{Sources, snapshot};
use crate::audit::value::Value;
use crate::event::{CHANGES, Change};
use crate::ids::{CampaignId, CouponId};

const NAME: LegName = LegName::new("changes");

/// The changes of a campaign, in each of the tables that have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    changes: i64,
    /// Those whose events are applied, or should be.
    due_in_wallet: i64,
    in_wallet: i64,
    in_outbox: i64,
    /// Coupons that have put their seats back on sale, and the highest of their return numbers.
    returned: i64,
    highest_return: i64,
}

#[derive(Debug, Default)]
pub(super) struct Changes {
    /// In a full audit.
    counted: Option<HashMap<CampaignId, Counts>>,
}

/// A change, and its row in the wallet.
#[derive(Debug, FromRow)]
struct Row {
    coupon_id: CouponId,
    nth: i32,
    kind: String,
    campaign_id: CampaignId,
    at: OffsetDateTime,
    position: i64,
    merchant_id: String,
    order_ref: Option<String>,
    amount: Option<i64>,
    wallet_kind: Option<String>,
    wallet_at: Option<OffsetDateTime>,
    /// The amount that the settlement should have, and that it has.
    due: Option<i64>,
    settled: Option<i64>,
}

/// What a change adds to the settlement; nothing if it does not count.
macro_rules! due {
    () => {
        "CASE WHEN settle_on = 'redeem' AND kind = 'redeemed' THEN amount \
              WHEN settle_on = 'redeem' AND kind = 'restored' THEN -amount \
              WHEN settle_on = 'issue' AND kind IN ('cancelled', 'expired') THEN -face_value END"
    };
}

pub(super) use due;

impl Leg for Changes {
    fn name(&self) -> LegName {
        NAME
    }

    fn count<'a>(
        &'a mut self,
        snapshot: &'a mut PgConnection,
        campaigns: &'a mut Campaigns,
    ) -> Asking<'a, Option<Difference>> {
        Box::pin(async move {
            let applied = applied_up_to(snapshot, "wallet", &campaigns.heads).await?;
            let mut counted: HashMap<CampaignId, Counts> = HashMap::new();
            let changes: Vec<(CampaignId, i64, i64, i64, i64)> = sqlx::query_as(
                "SELECT campaign_id, count(*), count(*) FILTER (WHERE position <= ($2::bigint[])[shard + 1]), \
                        count(return_number), coalesce(max(return_number), 0)::bigint \
                 FROM coupon_changes JOIN campaigns ON id = campaign_id \
                 WHERE $1::uuid IS NULL OR campaign_id = $1 GROUP BY 1",
            )
            .bind(campaigns.only)
            .bind(applied)
            .fetch_all(&mut *snapshot)
            .within(SCAN_TIMEOUT)
            .await?;
            for (id, changes, due_in_wallet, returned, highest_return) in changes {
                let counts = Counts { changes, due_in_wallet, returned, highest_return, ..Counts::default() };
                counted.insert(id, counts);
            }
            let in_wallet: Vec<(CampaignId, i64)> = sqlx::query_as(
                "SELECT campaign_id, count(*) FROM wallet_changes WHERE $1::uuid IS NULL OR campaign_id = $1 GROUP BY 1",
            )
            .bind(campaigns.only)
            .fetch_all(&mut *snapshot)
            .within(SCAN_TIMEOUT)
            .await?;
            for (id, in_wallet) in in_wallet {
                counted.entry(id).or_default().in_wallet = in_wallet;
            }
            let in_outbox: Vec<(String, i64)> = sqlx::query_as(
                "SELECT key, count(*) FROM outbox WHERE type = ANY ($2) AND ($1::text IS NULL OR key = $1) GROUP BY 1",
            )
            .bind(campaigns.only.map(|id| id.to_string()))
            .bind(CHANGES)
            .fetch_all(&mut *snapshot)
            .within(SCAN_TIMEOUT)
            .await?;
            for (key, in_outbox) in in_outbox {
                let id = CampaignId(id_of(&key).unwrap_or_default());
                counted.entry(id).or_default().in_outbox = in_outbox;
            }
            let counted = self.counted.insert(counted);
            Ok(campaigns.unknown(snapshot, NAME, counted.keys().copied()).await?)
        })
    }

    /// Old events leave the outbox, and their changes stay.
    fn figures(&self, campaign: &Campaign) -> Option<Difference> {
        let Counts { changes, due_in_wallet, in_wallet, in_outbox, returned, highest_return } =
            self.counts(campaign)?;
        let announced = if campaign.outbox_is_whole { changes } else { in_outbox.min(changes) };
        let outbox = campaign.unequal(NAME, Mismatch::Changes { table: "outbox" }, announced, in_outbox);
        let wallet =
            || campaign.unequal(NAME, Mismatch::Changes { table: "wallet" }, due_in_wallet, in_wallet);
        let returns = || {
            campaign.unequal(NAME, Mismatch::Changes { table: "return numbers" }, returned, highest_return)
        };
        outbox.or_else(wallet).or_else(returns)
    }

    fn batch<'a>(
        &'a mut self,
        connection: &'a mut PgConnection,
        chunk: &'a Chunk,
    ) -> Asking<'a, Vec<Difference>> {
        Box::pin(async move {
            let told: Vec<(&StoredEvent, Option<Change<'_>>)> = chunk
                .events
                .iter()
                .filter_map(|event| Some((event, Change::read(&event.kind, event.data.as_bytes())?.ok())))
                .collect();
            if told.is_empty() {
                return Ok(Vec::new());
            }
            let rows: HashMap<(CouponId, i32), Row> = rows(connection, &told)
                .await?
                .into_iter()
                .map(|row| ((row.coupon_id, row.nth), row))
                .collect();
            let differences = told.iter().filter_map(|(event, told)| {
                let row = told.as_ref().and_then(|told| rows.get(&(told.data.coupon_id, told.data.nth)));
                compare(event, told.as_ref(), row)
            });
            Ok(differences.collect())
        })
    }

    fn stranger<'a>(
        &'a mut self,
        sources: &'a mut Sources,
        campaign: &'a Campaign,
    ) -> Asking<'a, Option<Difference>> {
        Box::pin(async move {
            let mut snapshot = snapshot(&mut sources.connection).await?;
            let found = sqlx::query_scalar(
                "SELECT coupon_id FROM wallet_changes AS applied WHERE campaign_id = $1 AND NOT EXISTS (\
                     SELECT FROM coupon_changes AS change \
                     WHERE change.coupon_id = applied.coupon_id AND change.nth = applied.nth) ORDER BY 1 LIMIT 1",
            )
            .bind(campaign.id)
            .fetch_optional(&mut *snapshot)
            .within(SCAN_TIMEOUT)
            .await?;
            Ok(found.map(|coupon| Difference {
                coupon: Some(coupon),
                ..campaign.difference(NAME, Mismatch::RowWithoutCoupon)
            }))
        })
    }

    fn printed(&self, campaign: &Campaign) -> Option<i64> {
        self.counts(campaign).map(|counts| counts.changes)
    }

    fn fields(&self, campaign: &Campaign) -> Vec<Field> {
        let counts = self.counts(campaign);
        counts.map(|counts| ("changes", Some(counts.changes.into()))).into_iter().collect()
    }
}

impl Changes {
    /// Nothing before they are counted.
    fn counts(&self, campaign: &Campaign) -> Option<Counts> {
        Some(self.counted.as_ref()?.get(&campaign.id).copied().unwrap_or_default())
    }
}

/// The changes of which events tell, with what the projections have made of them.
async fn rows(
    connection: &mut PgConnection,
    told: &[(&StoredEvent, Option<Change<'_>>)],
) -> Result<Vec<Row>, sqlx::Error> {
    let told = || told.iter().filter_map(|(_, change)| change.as_ref());
    sqlx::query_as(concat!(
        "SELECT change.coupon_id, change.nth, change.kind, change.campaign_id, change.at, position, change.merchant_id, order_ref, change.amount, \
                wallet.kind AS wallet_kind, wallet.at AS wallet_at, due, entry.amount AS settled \
         FROM unnest($1::uuid[], $2::int[]) AS told (coupon_id, nth) \
              JOIN coupon_changes AS change USING (coupon_id, nth) \
              CROSS JOIN LATERAL (SELECT ",
        due!(),
        " AS due FROM campaigns WHERE id = change.campaign_id) AS settlement \
              LEFT JOIN wallet_changes AS wallet USING (coupon_id, nth) \
              LEFT JOIN settlement_entries AS entry USING (coupon_id, nth)"
    ))
    .bind(told().map(|change| change.data.coupon_id).collect::<Vec<_>>())
    .bind(told().map(|change| change.data.nth).collect::<Vec<_>>())
    .fetch_all(connection)
    .within(SCAN_TIMEOUT)
    .await
}

/// An event that tells of a change, against its row and what the projections have made of it.
fn compare(event: &StoredEvent, told: Option<&Change<'_>>, row: Option<&Row>) -> Option<Difference> {
    let differs = |table, expected: String, found: Option<String>| {
        Some(Difference {
            shard: Some(event.shard),
            campaign: id_of(&event.key).map(CampaignId),
            coupon: id_of(&event.subject).map(CouponId),
            position: Some(event.position),
            expected: Some(Value::Text(expected)),
            found: Some(Value::Text(found.unwrap_or_else(|| "missing".to_owned()))),
            ..Difference::new(NAME, Mismatch::Change { table })
        })
    };
    let Some(row) = row else { return differs("coupon_changes", event.data.clone(), None) };
    let is_told = told.is_some_and(|Change { kind, data, used }| {
        (row.coupon_id, row.campaign_id, &*row.merchant_id, &*row.kind, row.at, row.position)
            == (data.coupon_id, data.campaign_id, &*data.merchant_id, *kind, data.at, event.position)
            && row.order_ref.as_deref().zip(row.amount)
                == used.as_ref().map(|(order, amount)| (&**order, *amount))
            && event.key == row.campaign_id.to_string()
            && event.subject == row.coupon_id.to_string()
    });
    if !is_told {
        let Row { kind, at, position, merchant_id, order_ref, amount, .. } = row;
        let of = order_ref.as_deref().zip(*amount).map(|(order, amount)| format!(", {amount} for {order}"));
        let found = format!("{kind} at {at}{} of {merchant_id}, position {position}", of.unwrap_or_default());
        return differs("coupon_changes", event.data.clone(), Some(found));
    }
    let in_wallet = row.wallet_kind.as_deref().zip(row.wallet_at);
    if in_wallet != Some((&*row.kind, row.at)) {
        let found = in_wallet.map(|(kind, at)| format!("{kind} at {at}"));
        return differs("wallet", format!("{} at {}", row.kind, row.at), found);
    }
    let amount =
        |amount: Option<i64>| amount.map_or_else(|| "nothing".to_owned(), |amount| amount.to_string());
    if row.due != row.settled {
        return differs("settlement", amount(row.due), Some(amount(row.settled)));
    }
    None
}
