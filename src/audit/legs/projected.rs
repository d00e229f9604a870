//! A leg of a projection: a row for each coupon that calls for one, compared column by column.

use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::marker::PhantomData;

use anyhow::Context as _;
use outbox_relay::in_time::{InTime as _, SCAN_TIMEOUT};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection};

use super::outbox::late;
use crate::audit::campaigns::{Campaign, Campaigns};
use crate::audit::chunk::{Chunk, CouponRow};
use crate::audit::difference::{Difference, LegName, Mismatch};
use crate::audit::leg::{Asking, Field, Leg};
use crate::audit::sources::{Sources, snapshot};
use crate::audit::value::Value;
use crate::ids::{CampaignId, CouponId};

/// The table of a projection.
pub(super) trait Table: Debug + Default + Send {
    /// A row, with texts that are not parsed.
    type Row: Debug + Send + Sync + Unpin + for<'r> FromRow<'r, PgRow>;

    /// The name of the projection and of the leg.
    const NAME: LegName;
    /// A row for each campaign, or for `$1` alone unless it is null: its id, the number of its rows, and the sum of
    /// their amounts as text.
    const COUNTS: &str;
    /// The rows of the coupons with the ids `$2`, held by the users `$1`.
    const ROWS: &str;
    /// The coupon of the first row of campaign `$1` that no coupon calls for.
    const STRANGER: &str;

    fn coupon(row: &Self::Row) -> CouponId;

    /// Whether a coupon calls for a row.
    fn is_due(campaign: &Campaign, coupon: &CouponRow) -> bool;

    /// How many rows the coupons of a campaign call for when they are issued, of which `announced` have an event that is
    /// applied.
    fn due(campaign: &Campaign, announced: i64) -> i64;

    /// The amount of each such row of a campaign, in minor units.
    fn amount(campaign: &Campaign) -> i64;

    /// A row for each campaign, or for `$1` alone unless it is null: its id, the number of rows that the changes of its
    /// coupons call for, and the sum of their amounts as text. Only changes up to the positions `$2`, one for each shard.
    /// Nothing if changes call for no rows.
    const OF_CHANGES: Option<&str>;

    /// The first column with another value.
    fn differs(campaign: &Campaign, coupon: &CouponRow, row: &Self::Row) -> Option<Other>;

    /// The figures in JSON.
    fn fields(rows: Rows, due: i64) -> Vec<Field>;
}

/// Rows of a campaign, and the sum of their amounts in minor units, which need not fit into 64 bits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rows {
    pub(super) count: i64,
    pub(super) amount: i128,
}

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

/// The leg of a table.
#[derive(Debug, Default)]
pub(super) struct Projected<T> {
    /// In a full audit.
    counted: Option<HashMap<CampaignId, Rows>>,
    /// What the changes of coupons call for.
    of_changes: HashMap<CampaignId, Rows>,
    /// Coupons whose events were behind the cut, and not applied, when the rows were counted.
    late: HashMap<CampaignId, i64>,
    table: PhantomData<T>,
}

impl<T: Table> Leg for Projected<T> {
    fn name(&self) -> LegName {
        T::NAME
    }

    /// A projection that has not reached the cut is judged as if it had: it stands still.
    fn count<'a>(
        &'a mut self,
        snapshot: &'a mut PgConnection,
        campaigns: &'a mut Campaigns,
    ) -> Asking<'a, Option<Difference>> {
        Box::pin(async move {
            let applied = applied_up_to(snapshot, T::NAME.as_str(), &campaigns.heads).await?;
            for (shard, applied) in (0_i16..).zip(&applied) {
                self.late.extend(late(snapshot, outbox_relay::Shard(shard), *applied).await?);
            }
            if let Some(of_changes) = T::OF_CHANGES {
                let query = sqlx::query_as(of_changes).bind(campaigns.only).bind(applied);
                let of_changes = query.fetch_all(&mut *snapshot).within(SCAN_TIMEOUT).await?;
                self.of_changes = rows_of::<T>(of_changes)?;
            }
            let query = sqlx::query_as(T::COUNTS).bind(campaigns.only);
            let counts = query.fetch_all(&mut *snapshot).within(SCAN_TIMEOUT).await?;
            let counted = self.counted.insert(rows_of::<T>(counts)?);
            Ok(campaigns.unknown(snapshot, T::NAME, counted.keys().copied()).await?)
        })
    }

    fn figures(&self, campaign: &Campaign) -> Option<Difference> {
        let (rows, due) = (self.rows(campaign)?, self.due(campaign));
        let other_count = campaign.unequal(T::NAME, Mismatch::Rows, due.count, rows.count);
        other_count.or_else(|| campaign.unequal(T::NAME, Mismatch::Amount, due.amount, rows.amount))
    }

    fn batch<'a>(
        &'a mut self,
        connection: &'a mut PgConnection,
        chunk: &'a Chunk,
    ) -> Asking<'a, Vec<Difference>> {
        Box::pin(async move {
            let users: Vec<&str> = chunk.coupons.iter().map(|coupon| &*coupon.user_id).collect();
            let ids: Vec<CouponId> = chunk.coupons.iter().map(|coupon| coupon.id).collect();
            let rows: Vec<T::Row> = sqlx::query_as(T::ROWS)
                .bind(users)
                .bind(ids)
                .fetch_all(connection)
                .within(SCAN_TIMEOUT)
                .await?;
            let rows: HashMap<CouponId, T::Row> =
                rows.into_iter().map(|row| (T::coupon(&row), row)).collect();
            let differences = chunk.coupons.iter().filter_map(|coupon| {
                let campaign = chunk.campaigns.get(coupon.campaign_id)?;
                compare::<T>(campaign, coupon, rows.get(&coupon.id))
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
            let found = sqlx::query_scalar(T::STRANGER)
                .bind(campaign.id)
                .fetch_optional(&mut *snapshot)
                .within(SCAN_TIMEOUT)
                .await?;
            Ok(found.map(|coupon| Difference {
                coupon: Some(coupon),
                ..campaign.difference(T::NAME, Mismatch::RowWithoutCoupon)
            }))
        })
    }

    fn printed(&self, campaign: &Campaign) -> Option<i64> {
        Some(self.rows(campaign)?.count)
    }

    fn fields(&self, campaign: &Campaign) -> Vec<Field> {
        self.rows(campaign).map(|rows| T::fields(rows, self.due(campaign).count)).unwrap_or_default()
    }
}

impl<T: Table> Projected<T> {
    /// Nothing before they are counted.
    fn rows(&self, campaign: &Campaign) -> Option<Rows> {
        Some(self.counted.as_ref()?.get(&campaign.id).copied().unwrap_or_default())
    }

    fn due(&self, campaign: &Campaign) -> Rows {
        let late = self.late.get(&campaign.id).copied().unwrap_or_default();
        let issued = T::due(campaign, campaign.numbered() - late);
        let changed = self.of_changes.get(&campaign.id).copied().unwrap_or_default();
        let amount = i128::from(issued) * i128::from(T::amount(campaign));
        Rows { count: issued + changed.count, amount: amount + changed.amount }
    }
}

/// Rows of campaigns, as statements return them.
fn rows_of<T: Table>(counts: Vec<(CampaignId, i64, String)>) -> anyhow::Result<HashMap<CampaignId, Rows>> {
    let mut rows = HashMap::with_capacity(counts.len());
    for (id, count, amount) in counts {
        let amount = amount.parse().with_context(|| format!("read the {} of {id}", T::NAME))?;
        rows.insert(id, Rows { count, amount });
    }
    Ok(rows)
}

/// Up to which position of each shard a projection has applied the events, or should have: the cut, if it has not reached
/// that.
pub(super) async fn applied_up_to(
    snapshot: &mut PgConnection,
    projection: &str,
    heads: &[i64],
) -> Result<Vec<i64>, sqlx::Error> {
    let applied = "SELECT greatest(head, projection_position($1, (nth - 1)::smallint)) \
                   FROM unnest($2::bigint[]) WITH ORDINALITY AS shard (head, nth) ORDER BY nth";
    let query = sqlx::query_scalar(applied).bind(projection).bind(heads);
    query.fetch_all(snapshot).within(SCAN_TIMEOUT).await
}

/// A coupon against its row.
fn compare<T: Table>(campaign: &Campaign, coupon: &CouponRow, row: Option<&T::Row>) -> Option<Difference> {
    let difference =
        |mismatch| Difference { coupon: Some(coupon.id), ..campaign.difference(T::NAME, mismatch) };
    match (T::is_due(campaign, coupon), row) {
        (true, Some(row)) => {
            let Other { column, expected, found } = T::differs(campaign, coupon, row)?;
            Some(Difference {
                expected: Some(Value::Text(expected)),
                found: Some(Value::Text(found)),
                ..difference(Mismatch::OtherValue { column })
            })
        }
        (true, None) => Some(difference(Mismatch::RowMissing)),
        (false, Some(_)) => Some(difference(Mismatch::RowNotDue)),
        (false, None) => None,
    }
}
