//! Settlement: what a merchant is owed, projected from the events. A coupon is accrued when it is issued or redeemed, by the
//! `settle_on` of its campaign. A restored redemption is reversed, and so is a coupon that counted from its issue on and was
//! cancelled, or has expired.

use outbox_relay::event::{Event, NewEvent};
use outbox_relay::projection::{ApplyError, Applying, Projection};
use outbox_relay::zoo;
use sqlx::PgConnection;
use time::OffsetDateTime;
use ulid::Ulid;
use uuid::Uuid;

use crate::campaign::SettleOn;
use crate::event::{self, Change};
use crate::ids::{CampaignId, CouponId};
use crate::money::Currency;

/// The projection into table `settlement_entries`.
#[derive(Clone, Copy, Debug)]
pub struct Settlement;

impl Projection for Settlement {
    fn name(&self) -> &'static str {
        "settlement"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["settlement_entries"]
    }

    fn apply<'a>(&'a self, transaction: &'a mut PgConnection, events: &'a [Event]) -> Applying<'a> {
        Box::pin(insert(transaction, events))
    }
}

/// An entry of the table.
struct Entry<'a> {
    coupon: CouponId,
    campaign: CampaignId,
    merchant: &'a str,
    /// The change of the coupon that it follows from, or 0 for the issue.
    nth: i32,
    /// In minor units; below zero if it takes back what was accrued.
    amount: i64,
    currency: Currency,
    event: Ulid,
    occurred_at: OffsetDateTime,
}

async fn insert(transaction: &mut PgConnection, events: &[Event]) -> Result<Vec<NewEvent>, ApplyError> {
    let (coupons, changes) = (event::issues(events)?, event::changes(events)?);
    let of_issues =
        coupons.iter().filter(|(_, issued)| issued.settle_on == SettleOn::Issue).map(|(event, e)| Entry {
            coupon: e.coupon_id,
            campaign: e.campaign_id,
            merchant: &e.merchant_id,
            nth: 0,
            amount: e.face_value + i64::from(zoo::has("settlement-is-a-cent-off")),
            currency: e.currency,
            event: *event,
            occurred_at: e.issued_at,
        });
    let of_changes = changes.iter().filter_map(|(event, change)| {
        let e = &change.data;
        Some(Entry {
            coupon: e.coupon_id,
            campaign: e.campaign_id,
            merchant: &e.merchant_id,
            nth: e.nth,
            amount: amount_of(change)?,
            currency: e.currency,
            event: *event,
            occurred_at: e.at,
        })
    });
    let entries: Vec<Entry<'_>> = of_issues.chain(of_changes).collect();
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    // unnest() in FROM would first copy every element into a tuplestore.
    sqlx::query(
        "INSERT INTO settlement_entries (coupon_id, campaign_id, merchant_id, nth, amount, currency, event_id, occurred_at, kind) \
         SELECT unnest($1::uuid[]), unnest($2::uuid[]), unnest($3::text[]), unnest($4::int[]), unnest($5::bigint[]), \
                unnest($6::text[]), unnest($7::uuid[]), unnest($8::timestamptz[]), unnest($9::text[])",
    )
    .bind(entries.iter().map(|entry| entry.coupon).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.campaign).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.merchant).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.nth).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.amount).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.currency).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| Uuid::from(entry.event)).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.occurred_at).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| if entry.amount > 0 { "accrual" } else { "reversal" }).collect::<Vec<_>>())
    .execute(transaction)
    .await?;
    Ok(Vec::new())
}

/// What a change adds to what the merchant is owed, if it changes that. Where coupons count on redemption, that is what is
/// redeemed and restored; where they count on issue, a coupon that comes to nothing is taken back.
fn amount_of(Change { kind, data, used }: &Change<'_>) -> Option<i64> {
    let is_reversed = !zoo::has("accrual-without-reversal");
    let used = used.as_ref().map(|(_, amount)| *amount);
    match (data.settle_on, *kind) {
        (SettleOn::Redeem, event::REDEEMED) => used,
        (SettleOn::Redeem, event::RESTORED) => used.map(|amount| -amount).filter(|_| is_reversed),
        (SettleOn::Issue, event::CANCELLED | event::EXPIRED) => {
            Some(-data.face_value).filter(|_| is_reversed)
        }
        _ => None,
    }
}
