//! The campaigns of an audit, each with the number of its coupons: what every leg is compared with.

use outbox_relay::Shard;
use outbox_relay::audit::ShardAudit;
use sqlx::{FromRow, PgConnection};

use super::difference::{Difference, LegName, Mismatch};
use super::value::Value;
use crate::campaign::{SettleOn, State};
use crate::ids::CampaignId;

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
    /// Coupons issued: their highest number, since numbers have no gaps. From the leg of the coupons.
    #[sqlx(skip)]
    pub(super) issued: i64,
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

/// The coupons of a campaign by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct States {
    pub(super) issued: i64,
    pub(super) redeemed: i64,
    pub(super) cancelled: i64,
    pub(super) expired: i64,
}

impl States {
    /// Coupons in any state.
    pub(super) fn all(&self) -> i64 {
        self.issued + self.redeemed + self.cancelled + self.expired
    }
}

impl Campaign {
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

/// The campaigns that are audited, in the order of their ids: all, or only one.
#[derive(Debug)]
pub(super) struct Campaigns {
    pub(super) only: Option<CampaignId>,
    pub(super) list: Vec<Campaign>,
}

impl Campaigns {
    /// Reads all campaigns, or `only` one. `shards` say what their outboxes and streams still hold.
    pub(super) async fn read(
        connection: &mut PgConnection,
        shards: &[ShardAudit],
        only: Option<CampaignId>,
    ) -> Result<Self, sqlx::Error> {
        let mut list: Vec<Campaign> = sqlx::query_as(
            "SELECT id, shard, name, state, quantity::bigint, settle_on, merchant_id, face_value, currency \
             FROM campaigns WHERE $1::uuid IS NULL OR id = $1 ORDER BY id",
        )
        .bind(only)
        .fetch_all(connection)
        .await?;
        for campaign in &mut list {
            let shard = shards.iter().find(|audited| audited.shard == campaign.shard);
            campaign.outbox_is_whole = shard.is_none_or(|audited| audited.first == 1);
            campaign.stream_is_whole = shard.is_some_and(ShardAudit::is_whole);
        }
        Ok(Self { only, list })
    }

    /// The campaign of this id, if it is audited.
    pub(super) fn get(&self, id: CampaignId) -> Option<&Campaign> {
        self.list.get(self.index(id)?)
    }

    pub(super) fn get_mut(&mut self, id: CampaignId) -> Option<&mut Campaign> {
        let index = self.index(id)?;
        self.list.get_mut(index)
    }

    fn index(&self, id: CampaignId) -> Option<usize> {
        self.list.binary_search_by_key(&id, |campaign| campaign.id).ok()
    }

    /// The first of these campaigns that does not exist. Nothing if only one is audited: no leg counts the others.
    pub(super) fn unknown(
        &self,
        leg: LegName,
        ids: impl IntoIterator<Item = CampaignId>,
    ) -> Option<Difference> {
        let unknown = ids.into_iter().filter(|id| self.get(*id).is_none()).min()?;
        let found = Some(Value::Text(unknown.to_string()));
        let campaign = Some(unknown);
        self.only.is_none().then(|| Difference {
            campaign,
            found,
            ..Difference::new(leg, Mismatch::NoSuchCampaign)
        })
    }
}
