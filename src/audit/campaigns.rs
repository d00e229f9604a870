//! The campaigns of an audit, each with the number of its coupons: what every leg is compared with.

use outbox_relay::Shard;
use outbox_relay::audit::ShardAudit;
use outbox_relay::in_time::{InTime as _, SCAN_TIMEOUT};
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, FromRow, PgConnection, Row as _};

use super::difference::{Difference, LegName, Mismatch};
use super::sources::{REPEATABLE_READ, Sources};
use super::value::Value;
use crate::campaign::store::coupons_max;
use crate::campaign::{SettleOn, State};
use crate::coupon::store::issued_of;
use crate::ids::CampaignId;
use crate::storage::read_row;

/// Campaigns that are read, and asked for at each server, at a time: some milliseconds each.
pub(super) const CHUNK_CAMPAIGNS: usize = 1_000;

/// The side that all others are compared with.
const CAMPAIGNS: LegName = LegName::new("campaigns");

/// A campaign, and its coupons.
#[derive(Clone, Debug, FromRow)]
pub(super) struct Campaign {
    pub(super) id: CampaignId,
    pub(super) shard: Shard,
    pub(super) name: String,
    pub(super) state: State,
    pub(super) quantity: i64,
    pub(super) settle_on: SettleOn,
    pub(super) merchant_id: String,
    /// In minor units of `currency`.
    pub(super) face_value: i64,
    pub(super) currency: String,
    /// Coupons issued when the campaign was read, at the cut of an audit that is made once: their highest number,
    /// since numbers have no gaps.
    pub(super) issued: i64,
    /// Coupons issued after the other servers had answered.
    #[sqlx(skip)]
    pub(super) issued_after: i64,
    /// Coupons counted, in a full audit. From the leg of the coupons.
    #[sqlx(skip)]
    pub(super) states: Option<States>,
    /// The outbox still holds every event of the shard.
    #[sqlx(skip)]
    pub(super) outbox_is_whole: bool,
    /// The stream should hold every event of the shard and nothing else.
    #[sqlx(skip)]
    pub(super) stream_is_whole: bool,
}

/// Campaigns with the columns of a [`Campaign`].
macro_rules! campaigns {
    ($condition:literal) => {
        concat!(
            "SELECT id, shard, name, state, ",
            coupons_max!(),
            "::bigint AS quantity, settle_on, merchant_id, face_value, currency, ",
            issued_of!("campaigns.id"),
            "::bigint AS issued FROM campaigns WHERE ",
            $condition,
            " ORDER BY id"
        )
    };
}

/// The coupons of a campaign by their state, as of one snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct States {
    pub(super) issued: i64,
    pub(super) redeemed: i64,
    pub(super) cancelled: i64,
    pub(super) expired: i64,
    /// The highest number.
    pub(super) highest: i64,
}

impl States {
    /// Coupons in any state.
    pub(super) fn all(&self) -> i64 {
        self.issued + self.redeemed + self.cancelled + self.expired
    }
}

impl Campaign {
    /// Coupons that must exist, by their numbers: the highest one that was read.
    pub(super) fn numbered(&self) -> i64 {
        self.issued.max(self.states.map_or(0, |states| states.highest))
    }

    /// No coupon was issued while the other servers answered, so that their figures are of one moment.
    pub(super) fn rested(&self) -> bool {
        self.issued == self.issued_after
    }

    /// Reads how many coupons these campaigns have now.
    pub(super) async fn read_issued_after(
        connection: &mut PgConnection,
        campaigns: &mut [Self],
    ) -> Result<(), sqlx::Error> {
        let ids: Vec<CampaignId> = campaigns.iter().map(|campaign| campaign.id).collect();
        // One statement: as many coupons as there may be at the moment of the count.
        let statement = concat!(
            "SELECT ",
            issued_of!("read.id"),
            "::bigint, (SELECT ",
            coupons_max!(),
            "::bigint FROM campaigns WHERE id = read.id) \
             FROM unnest($1::uuid[]) WITH ORDINALITY AS read (id, nth) ORDER BY nth"
        );
        let read: Vec<(i64, Option<i64>)> =
            sqlx::query_as(statement).bind(ids).fetch_all(connection).within(SCAN_TIMEOUT).await?;
        for (campaign, (issued, quantity)) in campaigns.iter_mut().zip(read) {
            campaign.issued_after = issued;
            campaign.allows(quantity);
        }
        Ok(())
    }

    /// Notes how many coupons there may be at a later moment: the quantity may have been raised, or seats may have been put back
    /// on sale.
    pub(super) fn allows(&mut self, quantity: Option<i64>) {
        self.quantity = quantity.map_or(self.quantity, |quantity| quantity.max(self.quantity));
    }

    /// A difference of a leg in this campaign.
    pub(super) fn difference(&self, leg: LegName, mismatch: Mismatch) -> Difference {
        let (shard, campaign) = (Some(self.shard), Some(self.id));
        Difference { shard, campaign, ..Difference::new(leg, mismatch) }
    }

    /// A difference of two figures, if they are not the same.
    pub(super) fn unequal(
        &self,
        leg: LegName,
        mismatch: Mismatch,
        expected: impl Into<i128>,
        found: impl Into<i128>,
    ) -> Option<Difference> {
        let (expected, found) = (expected.into(), found.into());
        let figures = (Some(Value::Number(expected)), Some(Value::Number(found)));
        (expected != found).then(|| Difference {
            expected: figures.0,
            found: figures.1,
            ..self.difference(leg, mismatch)
        })
    }
}

/// A campaign whose row cannot be read.
pub(super) fn unreadable(leg: LegName, campaign: CampaignId, reason: &sqlx::Error) -> Difference {
    let (campaign, found) = (Some(campaign), Some(Value::Text(reason.to_string())));
    Difference { campaign, found, ..Difference::new(leg, Mismatch::CampaignUnreadable) }
}

/// A campaign whose row cannot be read, and the reason.
type Unread = (CampaignId, sqlx::Error);

/// What rows hold, and those that cannot be read.
fn read(rows: &[PgRow]) -> Result<(Vec<Campaign>, Vec<Unread>), sqlx::Error> {
    let (mut list, mut failed) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        match read_row(row) {
            Ok(campaign) => list.push(campaign),
            Err(error) => failed.push((row.try_get("id")?, error)),
        }
    }
    Ok((list, failed))
}

/// Campaigns that are audited, in the order of their ids.
#[derive(Debug, Default)]
pub(super) struct Campaigns {
    /// The only one that is audited; nothing for all.
    pub(super) only: Option<CampaignId>,
    pub(super) list: Vec<Campaign>,
    /// Those whose rows cannot be read, of an audit that is made once.
    pub(super) unreadable: Vec<Difference>,
    /// The cut: the head of each shard's outbox in the snapshot from which the campaigns were read.
    pub(super) heads: Vec<i64>,
}

impl Campaigns {
    /// All campaigns, or `only` one, and the heads of the shards, from one snapshot. A coupon and its event are
    /// committed together: the events up to the heads are those of the coupons up to [`Campaign::issued`].
    pub(super) async fn cut(
        connection: &mut PgConnection,
        shards: i16,
        only: Option<CampaignId>,
    ) -> Result<Self, sqlx::Error> {
        let mut snapshot = connection.begin_with(REPEATABLE_READ).within(SCAN_TIMEOUT).await?;
        let heads = sqlx::query_scalar(
            "SELECT outbox_head(shard::smallint) FROM generate_series(0, $1 - 1) AS shard ORDER BY shard",
        );
        let heads = heads.bind(i32::from(shards)).fetch_all(&mut *snapshot).within(SCAN_TIMEOUT).await?;
        let rows = sqlx::query(campaigns!("$1::uuid IS NULL OR id = $1"));
        let rows = rows.bind(only).fetch_all(&mut *snapshot).within(SCAN_TIMEOUT).await?;
        let (list, failed) = read(&rows)?;
        let unreadable = failed.iter().map(|(id, reason)| unreadable(CAMPAIGNS, *id, reason)).collect();
        Ok(Self { only, list, unreadable, heads })
    }

    /// The campaigns of these ids, as far as they exist. One that cannot be read is left out and noted in `sources`.
    pub(super) async fn of(sources: &mut Sources, ids: &[CampaignId]) -> Result<Self, sqlx::Error> {
        let rows = Self::rows(&mut sources.connection, ids).await?;
        let (list, failed) = read(&rows)?;
        for (id, error) in failed {
            sources.fail(format_args!("campaign {id}"), error);
        }
        Ok(Self { list, ..Self::default() })
    }

    /// The same of campaigns that are audited, which notes those that cannot be read.
    pub(super) async fn readable(
        connection: &mut PgConnection,
        ids: &[CampaignId],
    ) -> Result<Self, sqlx::Error> {
        let rows = Self::rows(connection, ids).await?;
        Ok(Self { list: read(&rows)?.0, ..Self::default() })
    }

    async fn rows(connection: &mut PgConnection, ids: &[CampaignId]) -> Result<Vec<PgRow>, sqlx::Error> {
        sqlx::query(campaigns!("id = ANY ($1)")).bind(ids).fetch_all(connection).within(SCAN_TIMEOUT).await
    }

    /// Says of each campaign what the outbox and the stream of its shard still hold.
    pub(super) fn know(&mut self, shards: &[ShardAudit]) {
        for campaign in &mut self.list {
            let shard = shards.iter().find(|audited| audited.shard == campaign.shard);
            campaign.outbox_is_whole = shard.is_none_or(|audited| audited.first == 1);
            campaign.stream_is_whole = shard.is_some_and(ShardAudit::is_whole);
        }
    }

    /// The campaign of this id, if it is audited.
    pub(super) fn get(&self, id: CampaignId) -> Option<&Campaign> {
        let index = self.list.binary_search_by_key(&id, |campaign| campaign.id).ok()?;
        self.list.get(index)
    }

    /// The first of these campaigns that does not exist. Nothing if only one is audited: no leg counts the others.
    pub(super) async fn unknown(
        &self,
        snapshot: &mut PgConnection,
        leg: LegName,
        ids: impl IntoIterator<Item = CampaignId>,
    ) -> Result<Option<Difference>, sqlx::Error> {
        if self.only.is_some() {
            return Ok(None);
        }
        let unread: Vec<CampaignId> = ids.into_iter().filter(|id| self.get(*id).is_none()).collect();
        // Those that were created after the cut exist in this snapshot.
        let unknown = sqlx::query_scalar(
            "SELECT id FROM unnest($1::uuid[]) AS read (id) \
             WHERE NOT EXISTS (SELECT FROM campaigns WHERE campaigns.id = read.id) ORDER BY id LIMIT 1",
        );
        let unknown: Option<CampaignId> =
            unknown.bind(unread).fetch_optional(snapshot).within(SCAN_TIMEOUT).await?;
        Ok(unknown.map(|campaign| Difference {
            campaign: Some(campaign),
            found: Some(Value::Text(campaign.to_string())),
            ..Difference::new(leg, Mismatch::NoSuchCampaign)
        }))
    }
}
