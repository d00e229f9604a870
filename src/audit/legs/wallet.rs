//! The wallet: a row for every coupon, as the coupon is.

use std::collections::HashMap;

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::projected::{self, RowCounts, first_other, other};
use crate::audit::campaigns::{Campaign, Campaigns, States};
use crate::audit::chunk::{Chunk, CouponRow};
use crate::audit::difference::{Difference, LegName, Mismatch};
use crate::audit::leg::{Asking, Field, Leg, Moment};
use crate::audit::sources::Sources;
use crate::audit::value::Value;
use crate::ids::{CampaignId, CouponId};

pub(in crate::audit) const NAME: LegName = LegName::new("wallet");

/// Rows of each campaign, in a full audit.
#[derive(Debug, Default)]
pub(super) struct Wallet(Option<HashMap<CampaignId, i64>>);

/// A row of `wallet`, with texts that are not parsed.
#[derive(Debug, FromRow)]
struct WalletRow {
    coupon_id: CouponId,
    campaign_id: CampaignId,
    number: i32,
    face_value: i64,
    currency: String,
    state: String,
    issued_at: OffsetDateTime,
    expires_at: OffsetDateTime,
}

impl Leg for Wallet {
    fn name(&self) -> LegName {
        NAME
    }

    fn count<'a>(
        &'a mut self,
        snapshot: &'a mut PgConnection,
        campaigns: &'a mut Campaigns,
    ) -> Asking<'a, Option<Difference>> {
        Box::pin(async move {
            let counts: RowCounts = sqlx::query_as(
                "SELECT campaign_id, count(*) FROM wallet WHERE $1::uuid IS NULL OR campaign_id = $1 GROUP BY 1",
            )
            .bind(campaigns.only)
            .fetch_all(snapshot)
            .await?;
            let counted = self.0.insert(counts.into_iter().collect());
            Ok(campaigns.unknown(NAME, counted.keys().copied()))
        })
    }

    fn figures(&self, campaign: &Campaign, _: Moment) -> Option<Difference> {
        let (rows, coupons) = (self.printed(campaign)?, campaign.states.as_ref().map(States::all)?);
        campaign.unequal(NAME, Mismatch::Rows, coupons, rows)
    }

    fn batch<'a>(
        &'a mut self,
        connection: &'a mut PgConnection,
        campaigns: &'a Campaigns,
        chunk: &'a Chunk,
    ) -> Asking<'a, Vec<Difference>> {
        Box::pin(async move {
            let users: Vec<&str> = chunk.coupons.iter().map(|coupon| &*coupon.user_id).collect();
            let ids: Vec<CouponId> = chunk.coupons.iter().map(|coupon| coupon.id).collect();
            let rows: Vec<WalletRow> = sqlx::query_as(
                "SELECT coupon_id, campaign_id, number, face_value, currency, state, issued_at, expires_at \
                 FROM unnest($1::text[], $2::uuid[]) AS c (user_id, coupon_id) JOIN wallet USING (user_id, coupon_id)",
            )
            .bind(users)
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
            "SELECT coupon_id FROM wallet WHERE campaign_id = $1 AND NOT EXISTS \
             (SELECT FROM coupons WHERE id = coupon_id AND campaign_id = $1 AND user_id = wallet.user_id) \
             ORDER BY 1 LIMIT 1",
        )
    }

    fn printed(&self, campaign: &Campaign) -> Option<i64> {
        Some(self.0.as_ref()?.get(&campaign.id).copied().unwrap_or_default())
    }

    fn fields(&self, campaign: &Campaign) -> Vec<Field> {
        self.printed(campaign).map(|rows| ("wallet", Some(Value::from(rows)))).into_iter().collect()
    }
}

/// A coupon against its row.
fn compare(campaign: &Campaign, coupon: &CouponRow, row: Option<&WalletRow>) -> Option<Difference> {
    let Some(row) = row else {
        return Some(projected::difference(NAME, campaign, coupon, Mismatch::RowMissing));
    };
    let found = first_other([
        other("campaign_id", &coupon.campaign_id, &row.campaign_id),
        other("number", &coupon.number, &row.number),
        other("face_value", &campaign.face_value, &row.face_value),
        other("currency", &campaign.currency, &row.currency),
        other("state", coupon.state.as_str(), &*row.state),
        other("issued_at", &coupon.issued_at, &row.issued_at),
        other("expires_at", &coupon.expires_at, &row.expires_at),
    ])?;
    Some(found.of(NAME, campaign, coupon))
}
