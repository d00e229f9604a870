//! The coupons themselves: not more than the quantity, numbered without gaps. Every other leg is compared with them.

use std::collections::HashMap;

use outbox_relay::in_time::{InTime as _, SCAN_TIMEOUT};
use sqlx::PgConnection;

use crate::audit::campaigns::{Campaign, Campaigns, States};
use crate::audit::difference::{Difference, LegName, Mismatch};
use crate::audit::leg::{Asking, Field, Leg};
use crate::campaign::store::coupons_max;
use crate::coupon::CouponState;
use crate::ids::CampaignId;

pub(in crate::audit) const NAME: LegName = LegName::new("coupons");

/// What it reads is kept with the campaigns.
#[derive(Debug, Default)]
pub(super) struct Coupons;

impl Leg for Coupons {
    fn name(&self) -> LegName {
        NAME
    }

    fn count<'a>(
        &'a mut self,
        snapshot: &'a mut PgConnection,
        campaigns: &'a mut Campaigns,
    ) -> Asking<'a, Option<Difference>> {
        Box::pin(async move {
            let counts: Vec<(CampaignId, i64, i32)> = sqlx::query_as(
                "SELECT campaign_id, count(*), max(number) FROM coupons \
                 WHERE $1::uuid IS NULL OR campaign_id = $1 GROUP BY 1",
            )
            .bind(campaigns.only)
            .fetch_all(&mut *snapshot)
            .within(SCAN_TIMEOUT)
            .await?;
            let mut states: HashMap<CampaignId, States> = HashMap::new();
            for (id, issued, highest) in counts {
                states.insert(id, States { issued, highest: highest.into(), ..States::default() });
            }
            let ended: Vec<(CampaignId, CouponState, i64)> = sqlx::query_as(
                "SELECT campaign_id, kind, count(*) FROM (\
                     SELECT DISTINCT ON (campaign_id, coupon_id) campaign_id, kind FROM coupon_changes \
                     WHERE $1::uuid IS NULL OR campaign_id = $1 ORDER BY campaign_id, coupon_id, nth DESC) AS last \
                 WHERE kind <> 'restored' GROUP BY 1, 2",
            )
            .bind(campaigns.only)
            .fetch_all(&mut *snapshot)
            .within(SCAN_TIMEOUT)
            .await?;
            for (id, state, count) in ended {
                let states = states.entry(id).or_default();
                states.issued -= count;
                match state {
                    CouponState::Issued => {}
                    CouponState::Redeemed => states.redeemed = count,
                    CouponState::Cancelled => states.cancelled = count,
                    CouponState::Expired => states.expired = count,
                }
            }
            let allowed: Vec<(CampaignId, i64)> = sqlx::query_as(concat!(
                "SELECT id, ",
                coupons_max!(),
                "::bigint FROM campaigns WHERE $1::uuid IS NULL OR id = $1"
            ))
            .bind(campaigns.only)
            .fetch_all(&mut *snapshot)
            .within(SCAN_TIMEOUT)
            .await?;
            let allowed: HashMap<CampaignId, i64> = allowed.into_iter().collect();
            for campaign in &mut campaigns.list {
                campaign.allows(allowed.get(&campaign.id).copied());
                campaign.states = Some(states.get(&campaign.id).copied().unwrap_or_default());
            }
            Ok(campaigns.unknown(snapshot, NAME, states.into_keys()).await?)
        })
    }

    fn figures(&self, campaign: &Campaign) -> Option<Difference> {
        let issued = campaign.numbered().max(campaign.issued_after);
        if issued > campaign.quantity {
            return campaign.unequal(NAME, Mismatch::Oversold, campaign.quantity, issued);
        }
        campaign.unequal(NAME, Mismatch::Rows, campaign.numbered(), campaign.states.as_ref()?.all())
    }

    fn printed(&self, campaign: &Campaign) -> Option<i64> {
        Some(campaign.states.map_or(campaign.issued, |states| states.all()))
    }

    fn fields(&self, campaign: &Campaign) -> Vec<Field> {
        let mut fields = vec![("coupons", Some(campaign.issued.into()))];
        if let Some(States { issued, redeemed, cancelled, expired, highest: _ }) = campaign.states {
            fields.extend([
                ("issued", Some(issued.into())),
                ("redeemed", Some(redeemed.into())),
                ("cancelled", Some(cancelled.into())),
                ("expired", Some(expired.into())),
            ]);
        }
        fields
    }
}
