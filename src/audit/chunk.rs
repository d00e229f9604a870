//! A chunk of what is compared: events as the outbox has them, and the coupons of which they tell.

use outbox_relay::audit::ShardPart;
use outbox_relay::event::StoredEvent;
use outbox_relay::in_time::{InTime as _, SCAN_TIMEOUT};
use outbox_relay::strict::id_of;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::campaigns::{Campaign, Campaigns};
use crate::coupon::CouponState;
use crate::ids::{CampaignId, CouponId};

/// Events, or coupons, of one chunk: about 1 MB, read within some 10 ms.
pub(super) const CHUNK_ROWS: i64 = 1_000;

/// A row of `coupons`. Texts are not parsed: a wrong one is a difference, and no reason to end the audit.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub(super) struct CouponRow {
    pub(super) id: CouponId,
    pub(super) campaign_id: CampaignId,
    pub(super) user_id: String,
    pub(super) number: i32,
    pub(super) state: CouponState,
    pub(super) issued_at: OffsetDateTime,
    pub(super) expires_at: OffsetDateTime,
}

/// Columns of a [`CouponRow`].
macro_rules! coupons {
    ($rest:literal) => {
        concat!(
            "SELECT c.id, c.campaign_id, c.user_id, c.number, c.state, c.issued_at, c.expires_at FROM ",
            $rest
        )
    };
}

/// What is compared at once.
#[derive(Debug)]
pub(super) struct Chunk {
    /// In the order of positions; none if the outbox no longer holds the events of these coupons.
    pub(super) events: Vec<StoredEvent>,
    /// Each once.
    pub(super) coupons: Vec<CouponRow>,
    /// The campaigns of these coupons, as far as they can be read.
    pub(super) campaigns: Campaigns,
}

impl Chunk {
    /// The events of a part, and their coupons; of the `only` campaign, if there is one.
    pub(super) async fn of_events(
        connection: &mut PgConnection,
        only: Option<CampaignId>,
        ShardPart { shard, after, until }: ShardPart,
    ) -> Result<Self, sqlx::Error> {
        let mut events = StoredEvent::between(connection, shard, after, until).await?;
        if let Some(only) = only {
            let key = only.to_string();
            events.retain(|event| event.key == key);
        }
        let mut ids: Vec<Uuid> =
            events.iter().filter_map(|event| id_of(&event.subject)).map(Uuid::from).collect();
        ids.sort_unstable();
        ids.dedup();
        let coupons =
            sqlx::query_as(coupons!("unnest($1::uuid[]) AS e (id) JOIN coupons AS c USING (id) ORDER BY 1"))
                .bind(ids)
                .fetch_all(&mut *connection)
                .within(SCAN_TIMEOUT)
                .await?;
        Self::new(connection, events, coupons).await
    }

    /// The coupons of a campaign with numbers behind `after`, up to and including `until`, in their order; at most
    /// [`CHUNK_ROWS`].
    pub(super) async fn of_coupons(
        connection: &mut PgConnection,
        campaign: &Campaign,
        (after, until): (i32, i32),
    ) -> Result<Self, sqlx::Error> {
        let coupons = sqlx::query_as(coupons!(
            "coupons AS c WHERE campaign_id = $1 AND number > $2 AND number <= $3 ORDER BY number LIMIT $4"
        ))
        .bind(campaign.id)
        .bind(after)
        .bind(until)
        .bind(CHUNK_ROWS)
        .fetch_all(&mut *connection)
        .within(SCAN_TIMEOUT)
        .await?;
        Self::new(connection, Vec::new(), coupons).await
    }

    async fn new(
        connection: &mut PgConnection,
        events: Vec<StoredEvent>,
        coupons: Vec<CouponRow>,
    ) -> Result<Self, sqlx::Error> {
        let mut ids: Vec<CampaignId> = coupons.iter().map(|coupon| coupon.campaign_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let campaigns = Campaigns::readable(connection, &ids).await?;
        Ok(Self { events, coupons, campaigns })
    }
}
