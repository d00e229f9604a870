//! The settlement: an entry for every coupon that counts for the merchant, with its amount.

use std::collections::HashMap;

use anyhow::Context as _;
use sqlx::{FromRow, PgConnection};

use super::projected::{self, first_other, other};
use crate::audit::campaigns::{Campaign, Campaigns, States};
use crate::audit::chunk::{Chunk, CouponRow};
use crate::audit::difference::{Difference, LegName, Mismatch};
use crate::audit::leg::{Asking, Field, Leg, Moment};
use crate::audit::sources::Sources;
use crate::campaign::SettleOn;
use crate::coupon::CouponState;
use crate::ids::{CampaignId, CouponId};

pub(in crate::audit) const NAME: LegName = LegName::new("settlement");

/// Entries of each campaign, in a full audit.
#[derive(Debug, Default)]
pub(super) struct Settlement(Option<HashMap<CampaignId, Entries>>);

/// Entries, and the sum of their amounts in minor units, which need not fit into 64 bits.
#[derive(Clone, Copy, Debug, Default)]
struct Entries {
    count: i64,
    amount: i128,
}

/// A row of `settlement_entries`, with texts that are not parsed.
#[derive(Debug, FromRow)]
struct EntryRow {
    coupon_id: CouponId,
    campaign_id: CampaignId,
    merchant_id: String,
    amount: i64,
    currency: String,
}

impl Leg for Settlement {
    fn name(&self) -> LegName {
        NAME
    }

    fn count<'a>(
        &'a mut self,
        snapshot: &'a mut PgConnection,
        campaigns: &'a mut Campaigns,
    ) -> Asking<'a, Option<Difference>> {
        Box::pin(async move {
            let counts: Vec<(CampaignId, i64, String)> = sqlx::query_as(
                "SELECT campaign_id, count(*), sum(amount)::text FROM settlement_entries \
                 WHERE $1::uuid IS NULL OR campaign_id = $1 GROUP BY 1",
            )
            .bind(campaigns.only)
            .fetch_all(snapshot)
            .await?;
            let counted = self.0.insert(HashMap::with_capacity(counts.len()));
            for (id, count, amount) in counts {
                let amount = amount.parse().with_context(|| format!("read the settlement of {id}"))?;
                counted.insert(id, Entries { count, amount });
            }
            Ok(campaigns.unknown(NAME, counted.keys().copied()))
        })
    }

    fn figures(&self, campaign: &Campaign, _: Moment) -> Option<Difference> {
        let (entries, due) = (self.entries(campaign)?, due(campaign, campaign.states.as_ref()?));
        campaign.unequal(NAME, Mismatch::Rows, due, entries.count).or_else(|| {
            let amount = i128::from(due) * i128::from(campaign.face_value);
            campaign.unequal(NAME, Mismatch::Amount, amount, entries.amount)
        })
    }

    fn batch<'a>(
        &'a mut self,
        connection: &'a mut PgConnection,
        campaigns: &'a Campaigns,
        chunk: &'a Chunk,
    ) -> Asking<'a, Vec<Difference>> {
        Box::pin(async move {
            let ids: Vec<CouponId> = chunk.coupons.iter().map(|coupon| coupon.id).collect();
            let rows: Vec<EntryRow> = sqlx::query_as(
                "SELECT coupon_id, campaign_id, merchant_id, amount, currency \
                 FROM unnest($1::uuid[]) AS c (coupon_id) JOIN settlement_entries USING (coupon_id) \
                 WHERE kind = 'accrual'",
            )
            .bind(ids)
            .fetch_all(connection)
            .await?;
            let rows = rows.into_iter().map(|row| (row.coupon_id, row)).collect();
            Ok(projected::compared(chunk, campaigns, rows, compare))
        })
    }

    fn stranger<'a>(
        &'a mut self,
        sources: &'a mut Sources,
        campaign: &'a Campaign,
    ) -> Asking<'a, Option<Difference>> {
        projected::without_coupon(
            NAME,
            sources,
            campaign,
            "SELECT coupon_id FROM settlement_entries WHERE campaign_id = $1 AND NOT EXISTS \
             (SELECT FROM coupons JOIN campaigns ON campaigns.id = campaign_id \
              WHERE coupons.id = coupon_id AND campaign_id = $1 \
                AND (settle_on = 'issue' OR coupons.state = 'redeemed')) \
             ORDER BY 1 LIMIT 1",
        )
    }

    fn printed(&self, campaign: &Campaign) -> Option<i64> {
        Some(self.entries(campaign)?.count)
    }

    fn fields(&self, campaign: &Campaign) -> Vec<Field> {
        let (Some(Entries { count, amount }), Some(states)) = (self.entries(campaign), &campaign.states)
        else {
            return Vec::new();
        };
        vec![
            ("settlement", Some(count.into())),
            ("settlement_due", Some(due(campaign, states).into())),
            ("settlement_amount", Some(amount.into())),
        ]
    }
}

impl Settlement {
    /// Nothing before they are counted.
    fn entries(&self, campaign: &Campaign) -> Option<Entries> {
        Some(self.0.as_ref()?.get(&campaign.id).copied().unwrap_or_default())
    }
}

/// Coupons that count for the merchant.
fn due(campaign: &Campaign, states: &States) -> i64 {
    match campaign.settle_on {
        SettleOn::Issue => states.all(),
        SettleOn::Redeem => states.redeemed,
    }
}

fn is_due(campaign: &Campaign, coupon: &CouponRow) -> bool {
    campaign.settle_on == SettleOn::Issue || coupon.state == CouponState::Redeemed
}

/// A coupon against its entry.
fn compare(campaign: &Campaign, coupon: &CouponRow, row: Option<&EntryRow>) -> Option<Difference> {
    let found = match (is_due(campaign, coupon), row) {
        (true, Some(row)) => first_other([
            other("campaign_id", &coupon.campaign_id, &row.campaign_id),
            other("merchant_id", &campaign.merchant_id, &row.merchant_id),
            other("amount", &campaign.face_value, &row.amount),
            other("currency", &campaign.currency, &row.currency),
        ])?,
        (true, None) => return Some(projected::difference(NAME, campaign, coupon, Mismatch::RowMissing)),
        (false, Some(_)) => return Some(projected::difference(NAME, campaign, coupon, Mismatch::RowNotDue)),
        (false, None) => return None,
    };
    Some(found.of(NAME, campaign, coupon))
}
