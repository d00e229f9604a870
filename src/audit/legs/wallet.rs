//! The wallet: a row for every coupon, as the coupon is.

use sqlx::FromRow;
use time::OffsetDateTime;

use super::projected::{Other, Rows, Table, first_other, other};
use crate::audit::campaigns::Campaign;
use crate::audit::chunk::CouponRow;
use crate::audit::difference::LegName;
use crate::audit::leg::Field;
use crate::ids::{CampaignId, CouponId};

/// Table `wallet`.
#[derive(Debug, Default)]
pub(super) struct Wallet;

#[derive(Debug, FromRow)]
pub(super) struct WalletRow {
    coupon_id: CouponId,
    campaign_id: CampaignId,
    number: i32,
    face_value: i64,
    currency: String,
    state: String,
    issued_at: OffsetDateTime,
    expires_at: OffsetDateTime,
}

impl Table for Wallet {
    type Row = WalletRow;

    const NAME: LegName = LegName::new("wallet");
    const COUNTS: &str = "SELECT campaign_id, count(*), '0' FROM wallet \
        WHERE $1::uuid IS NULL OR campaign_id = $1 GROUP BY 1";
    const ROWS: &str = "SELECT coupon_id, campaign_id, number, face_value, currency, state, issued_at, expires_at \
        FROM unnest($1::text[], $2::uuid[]) AS c (user_id, coupon_id) JOIN wallet USING (user_id, coupon_id)";
    const STRANGER: &str = "SELECT coupon_id FROM wallet WHERE campaign_id = $1 AND NOT EXISTS \
        (SELECT FROM coupons WHERE id = coupon_id AND campaign_id = $1 AND user_id = wallet.user_id) \
        ORDER BY 1 LIMIT 1";

    const OF_CHANGES: Option<&str> = None;

    fn coupon(row: &WalletRow) -> CouponId {
        row.coupon_id
    }

    fn is_due(_: &Campaign, _: &CouponRow) -> bool {
        true
    }

    fn due(_: &Campaign, announced: i64) -> i64 {
        announced
    }

    fn amount(_: &Campaign) -> i64 {
        0
    }

    fn differs(campaign: &Campaign, coupon: &CouponRow, row: &WalletRow) -> Option<Other> {
        first_other([
            other("campaign_id", &coupon.campaign_id, &row.campaign_id),
            other("number", &coupon.number, &row.number),
            other("face_value", &campaign.face_value, &row.face_value),
            other("currency", &campaign.currency, &row.currency),
            other("state", coupon.state.as_str(), &*row.state),
            other("issued_at", &coupon.issued_at, &row.issued_at),
            other("expires_at", &coupon.expires_at, &row.expires_at),
        ])
    }

    fn fields(rows: Rows, _: i64) -> Vec<Field> {
        vec![("wallet", Some(rows.count.into()))]
    }
}
