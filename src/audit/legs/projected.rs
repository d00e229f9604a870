//! What the legs of projections have in common: rows that are compared with coupons, column by column.

use std::collections::HashMap;
use std::fmt::Display;

use crate::audit::campaigns::{Campaign, Campaigns};
use crate::audit::chunk::{Chunk, CouponRow};
use crate::audit::difference::{Difference, LegName, Mismatch};
use crate::audit::leg::Asking;
use crate::audit::sources::{Sources, snapshot};
use crate::audit::value::Value;
use crate::ids::{CampaignId, CouponId};

/// Campaigns, with the number of their rows.
pub(super) type RowCounts = Vec<(CampaignId, i64)>;

/// A column with another value.
#[derive(Debug)]
pub(super) struct Other {
    column: &'static str,
    expected: String,
    found: String,
}

/// A column, if its value is not the expected one.
pub(super) fn other<T: PartialEq + Display + ?Sized>(
    column: &'static str,
    expected: &T,
    found: &T,
) -> Option<Other> {
    (expected != found).then(|| Other { column, expected: expected.to_string(), found: found.to_string() })
}

/// The first column with another value.
pub(super) fn first_other<const N: usize>(columns: [Option<Other>; N]) -> Option<Other> {
    columns.into_iter().flatten().next()
}

impl Other {
    /// The same, as a difference of a coupon.
    pub(super) fn of(self, leg: LegName, campaign: &Campaign, coupon: &CouponRow) -> Difference {
        let Self { column, expected, found } = self;
        Difference {
            expected: Some(Value::Text(expected)),
            found: Some(Value::Text(found)),
            ..difference(leg, campaign, coupon, Mismatch::OtherValue { column })
        }
    }
}

/// Compares each coupon of a chunk with its row, if it has one.
pub(super) fn compared<R>(
    chunk: &Chunk,
    campaigns: &Campaigns,
    rows: Vec<(CouponId, R)>,
    compare: impl Fn(&Campaign, &CouponRow, Option<&R>) -> Option<Difference>,
) -> Vec<Difference> {
    let rows: HashMap<CouponId, R> = rows.into_iter().collect();
    let coupons = chunk.coupons.iter();
    let differences = coupons.filter_map(|coupon| {
        let campaign = campaigns.get(coupon.campaign_id)?;
        compare(campaign, coupon, rows.get(&coupon.id))
    });
    differences.collect()
}

/// A difference of a coupon.
pub(super) fn difference(
    leg: LegName,
    campaign: &Campaign,
    coupon: &CouponRow,
    mismatch: Mismatch,
) -> Difference {
    Difference { coupon: Some(coupon.id), ..campaign.difference(leg, mismatch) }
}

/// The first row of a campaign without a coupon that calls for it, by a statement that reads all rows.
pub(super) fn without_coupon<'a>(
    leg: LegName,
    sources: &'a mut Sources,
    campaign: &'a Campaign,
    statement: &'static str,
) -> Asking<'a, Option<Difference>> {
    Box::pin(async move {
        let mut snapshot = snapshot(&mut sources.connection).await?;
        let coupon: Option<CouponId> =
            sqlx::query_scalar(statement).bind(campaign.id).fetch_optional(&mut *snapshot).await?;
        Ok(coupon.map(|coupon| Difference {
            coupon: Some(coupon),
            ..campaign.difference(leg, Mismatch::RowWithoutCoupon)
        }))
    })
}
