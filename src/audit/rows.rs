//! Every row: what the outbox tells of against the coupon, and the coupon against wallet and
//! settlement, a batch at a time.

use std::collections::{BTreeMap, HashMap};

use outbox_relay::Shard;
use outbox_relay::event::{StoredEvent, from_object, id_of};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row as _};
use time::OffsetDateTime;
use ulid::Ulid;
use uuid::Uuid;

use super::serials::Serials;
use super::snapshot;
use crate::event::{ISSUED, Issued};
use crate::ids::{CampaignId, CouponId};

/// Rows compared at a time.
const BATCH_ROWS: i64 = 1_000;

/// A coupon, and whether the projections have it as it is.
struct Row {
    id: CouponId,
    campaign_id: CampaignId,
    user_id: String,
    number: i32,
    issued_at: OffsetDateTime,
    expires_at: OffsetDateTime,
    in_wallet: bool,
    in_settlement: bool,
}

/// By index: id, campaign, user, number, times, in wallet, in settlement.
impl FromRow<'_, PgRow> for Row {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get(0)?,
            campaign_id: row.try_get(1)?,
            user_id: row.try_get(2)?,
            number: row.try_get(3)?,
            issued_at: row.try_get(4)?,
            expires_at: row.try_get(5)?,
            in_wallet: row.try_get(6)?,
            in_settlement: row.try_get(7)?,
        })
    }
}

/// Coupons `c` with what the projections say of them.
macro_rules! rows_of {
    ($coupons:literal) => {
        concat!(
            "SELECT c.id, c.campaign_id, c.user_id, c.number, c.issued_at, c.expires_at, \
             coalesce((w.campaign_id, w.number, w.face_value, w.currency, w.state, w.issued_at, w.expires_at) \
                    = (c.campaign_id, c.number, m.face_value, m.currency, c.state, c.issued_at, c.expires_at), false), \
             CASE WHEN m.settle_on = 'issue' OR c.state = 'redeemed' \
                  THEN coalesce((s.campaign_id, s.merchant_id, s.amount, s.currency) \
                              = (c.campaign_id, m.merchant_id, m.face_value, m.currency), false) \
                  ELSE s.coupon_id IS NULL END \
             FROM ",
            $coupons,
            " JOIN campaigns AS m ON m.id = c.campaign_id \
             LEFT JOIN wallet AS w ON w.user_id = c.user_id AND w.coupon_id = c.id \
             LEFT JOIN settlement_entries AS s ON s.coupon_id = c.id AND s.kind = 'accrual' ORDER BY c.number"
        )
    };
}

/// What a comparison of rows has found so far.
#[derive(Debug, Default)]
pub(super) struct Rows {
    only: Option<CampaignId>,
    /// The first difference of each campaign.
    pub(super) differences: BTreeMap<CampaignId, String>,
    told: HashMap<CampaignId, Serials>,
}

impl Rows {
    /// Only of this campaign, or of all.
    pub(super) fn of(only: Option<CampaignId>) -> Self {
        Self { only, ..Self::default() }
    }

    /// Compares the issues behind position `after`, up to and including `until`: each has its coupon,
    /// once, and that is in the wallet and, if it counts, in the settlement.
    pub(super) async fn compare(
        &mut self,
        connection: &mut PgConnection,
        shard: Shard,
        (mut after, until): (i64, i64),
        mut progress: impl FnMut(u64),
    ) -> Result<(), sqlx::Error> {
        while after < until {
            let end = until.min(after + BATCH_ROWS);
            let mut events = StoredEvent::between(connection, shard, after, end).await?;
            let wanted = self.only.map(|id| id.to_string());
            events
                .retain(|event| event.kind == ISSUED && wanted.as_ref().is_none_or(|key| *key == event.key));
            self.compare_batch(connection, &events).await?;
            progress((end - after).unsigned_abs());
            after = end;
        }
        Ok(())
    }

    async fn compare_batch(
        &mut self,
        connection: &mut PgConnection,
        events: &[StoredEvent],
    ) -> Result<(), sqlx::Error> {
        let ids: Vec<Uuid> =
            events.iter().map(|event| Uuid::from(id_of(&event.subject).unwrap_or_default())).collect();
        let rows: Vec<Row> =
            sqlx::query_as(rows_of!("unnest($1::uuid[]) AS e (id) JOIN coupons AS c ON c.id = e.id"))
                .bind(ids)
                .fetch_all(connection)
                .await?;
        let rows: HashMap<String, Row> = rows.into_iter().map(|row| (row.id.to_string(), row)).collect();
        for event in events {
            let campaign = CampaignId(id_of(&event.key).unwrap_or_default());
            let difference = match rows.get(&event.subject) {
                None => Some("is not there".to_owned()),
                Some(row) if !is_told(row, event) => Some("is another".to_owned()),
                Some(row) if !self.told.entry(campaign).or_default().insert(row.number) => {
                    Some("was told of before".to_owned())
                }
                Some(row) => {
                    self.projected(row);
                    None
                }
            };
            if let Some(difference) = difference {
                let StoredEvent { position, subject: coupon, .. } = event;
                self.note(campaign, || {
                    format!("the outbox tells of coupon {coupon} at position {position}, which {difference}")
                });
            }
        }
        Ok(())
    }

    /// Compares the coupons of which the outbox did not tell, up to number `last`. There may be some
    /// only if its oldest events are gone: those up to the first that it told of.
    pub(super) async fn compare_untold(
        &mut self,
        connection: &mut PgConnection,
        campaign: CampaignId,
        last: i64,
        whole_outbox: bool,
    ) -> Result<(), sqlx::Error> {
        let told = self.told.remove(&campaign).unwrap_or_default();
        let last = i32::try_from(last).unwrap_or(i32::MAX);
        let gone = if whole_outbox { 0 } else { told.first().map_or(last, |first| first - 1) };
        if let Some(number) = told.first_gap(gone, last) {
            self.note(campaign, || format!("the outbox does not tell of the coupon with number {number}"));
        }
        let mut number = 0;
        while number < gone {
            let rows: Vec<Row> = sqlx::query_as(rows_of!(
                "(SELECT * FROM coupons WHERE campaign_id = $1 AND number > $2 AND number <= $3 \
                  ORDER BY number LIMIT $4) AS c"
            ))
            .bind(Uuid::from(campaign.0))
            .bind(number)
            .bind(gone)
            .bind(BATCH_ROWS)
            .fetch_all(&mut *connection)
            .await?;
            let Some(highest) = rows.last().map(|row| row.number) else { break };
            number = highest;
            for row in &rows {
                self.projected(row);
            }
        }
        Ok(())
    }

    fn projected(&mut self, row: &Row) {
        let Row { id, in_wallet, in_settlement, .. } = row;
        let place = match (in_wallet, in_settlement) {
            (true, true) => return,
            (false, _) => "wallet",
            (true, false) => "settlement",
        };
        self.note(row.campaign_id, || format!("coupon {id} is not in the {place} as it has to be"));
    }

    fn note(&mut self, campaign: CampaignId, difference: impl FnOnce() -> String) {
        self.differences.entry(campaign).or_insert_with(difference);
    }
}

/// What the event says of its coupon is what the coupon is.
fn is_told(row: &Row, event: &StoredEvent) -> bool {
    let Ok(issued) = from_object::<Issued<'_>>(event.data.as_bytes()) else { return false };
    (
        issued.coupon_id,
        issued.campaign_id,
        &*issued.user_id,
        issued.number,
        issued.issued_at,
        issued.expires_at,
    ) == (row.id, row.campaign_id, &*row.user_id, row.number, row.issued_at, row.expires_at)
        && event.key == row.campaign_id.to_string()
}

/// The first coupon of a campaign that a projection has and that is no coupon, or does not count.
pub(super) async fn too_much(
    connection: &mut PgConnection,
    campaign: CampaignId,
) -> Result<Option<String>, sqlx::Error> {
    let mut snapshot = snapshot(connection).await?;
    for (place, statement) in [
        (
            "wallet",
            "SELECT coupon_id FROM wallet WHERE campaign_id = $1 AND NOT EXISTS \
             (SELECT FROM coupons WHERE id = coupon_id AND campaign_id = $1 AND user_id = wallet.user_id) \
             ORDER BY 1 LIMIT 1",
        ),
        (
            "settlement",
            "SELECT coupon_id FROM settlement_entries WHERE campaign_id = $1 AND NOT EXISTS \
             (SELECT FROM coupons JOIN campaigns ON campaigns.id = campaign_id \
              WHERE coupons.id = coupon_id AND campaign_id = $1 AND (settle_on = 'issue' OR coupons.state = 'redeemed')) \
             ORDER BY 1 LIMIT 1",
        ),
    ] {
        let found: Option<Uuid> =
            sqlx::query_scalar(statement).bind(Uuid::from(campaign.0)).fetch_optional(&mut *snapshot).await?;
        if let Some(id) = found {
            return Ok(Some(format!("{} does not belong in the {place}", Ulid::from(id))));
        }
    }
    Ok(None)
}
