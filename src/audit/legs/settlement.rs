//! The settlement: an entry for every coupon that counts for the merchant from its issue on, and for every change that counts,
//! with its amount.

use sqlx::FromRow;

use super::changes::due;
use super::projected::{Other, Rows, Table, first_other, other};
use crate::audit::campaigns::Campaign;
use crate::audit::chunk::CouponRow;
use crate::audit::difference::LegName;
use crate::audit::leg::Field;
use crate::campaign::SettleOn;
use crate::ids::{CampaignId, CouponId};

/// Table `settlement_entries`.
#[derive(Debug, Default)]
pub(super) struct Settlement;

#[derive(Debug, FromRow)]
pub(super) struct EntryRow {
    coupon_id: CouponId,
    campaign_id: CampaignId,
    merchant_id: String,
    amount: i64,
    currency: String,
}

impl Table for Settlement {
    type Row = EntryRow;

    const NAME: LegName = LegName::new("settlement");
    const COUNTS: &str = "SELECT campaign_id, count(*), sum(amount)::text FROM settlement_entries \
        WHERE $1::uuid IS NULL OR campaign_id = $1 GROUP BY 1";
    const ROWS: &str = "SELECT coupon_id, campaign_id, merchant_id, amount, currency \
        FROM unnest($1::text[], $2::uuid[]) AS c (user_id, coupon_id) JOIN settlement_entries USING (coupon_id) \
        WHERE nth = 0 AND kind = 'accrual'";
    const STRANGER: &str = "SELECT coupon_id FROM settlement_entries AS entry WHERE campaign_id = $1 AND NOT EXISTS \
        (SELECT FROM coupons JOIN campaigns ON campaigns.id = campaign_id \
         WHERE coupons.id = coupon_id AND campaign_id = $1 \
           AND CASE entry.nth WHEN 0 THEN settle_on = 'issue' ELSE EXISTS \
               (SELECT FROM coupon_changes AS change WHERE change.coupon_id = entry.coupon_id AND change.nth = entry.nth) END) \
        ORDER BY 1 LIMIT 1";
    const OF_CHANGES: Option<&str> = Some(concat!(
        "SELECT campaign_id, count(due), coalesce(sum(due), 0)::text FROM (\
             SELECT campaign_id, ",
        due!(),
        " AS due FROM coupon_changes JOIN campaigns ON id = campaign_id \
             WHERE position <= ($2::bigint[])[shard + 1] AND ($1::uuid IS NULL OR campaign_id = $1)) AS change \
         GROUP BY 1"
    ));

    fn coupon(row: &EntryRow) -> CouponId {
        row.coupon_id
    }

    fn is_due(campaign: &Campaign, _: &CouponRow) -> bool {
        campaign.settle_on == SettleOn::Issue
    }

    fn due(campaign: &Campaign, announced: i64) -> i64 {
        match campaign.settle_on {
            SettleOn::Issue => announced,
            SettleOn::Redeem => 0,
        }
    }

    fn amount(campaign: &Campaign) -> i64 {
        campaign.face_value
    }

    fn differs(campaign: &Campaign, coupon: &CouponRow, row: &EntryRow) -> Option<Other> {
        first_other([
            other("campaign_id", &coupon.campaign_id, &row.campaign_id),
            other("merchant_id", &campaign.merchant_id, &row.merchant_id),
            other("amount", &campaign.face_value, &row.amount),
            other("currency", &campaign.currency, &row.currency),
        ])
    }

    fn fields(rows: Rows, due: i64) -> Vec<Field> {
        vec![
            ("settlement", Some(rows.count.into())),
            ("settlement_due", Some(due.into())),
            ("settlement_amount", Some(rows.amount.into())),
        ]
    }
}
