//! Settlement: what a merchant is owed, projected from the events. One accrual for each coupon
//! whose campaign settles on issue.

use outbox_relay::event::{Event, NewEvent};
use outbox_relay::projection::{ApplyError, Applying, Projection};
use outbox_relay::zoo;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::campaign::SettleOn;
use crate::event;

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

async fn insert(transaction: &mut PgConnection, events: &[Event]) -> Result<Vec<NewEvent>, ApplyError> {
    let mut entries = event::issues(events)?;
    entries.retain(|(_, issued)| issued.settle_on == SettleOn::Issue); // others when they are redeemed
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    // unnest() in FROM would first copy every element into a tuplestore.
    sqlx::query(
            "INSERT INTO settlement_entries (coupon_id, campaign_id, merchant_id, amount, currency, event_id, occurred_at, kind) \
             SELECT unnest($1::uuid[]), unnest($2::uuid[]), unnest($3::text[]), unnest($4::bigint[]), unnest($5::text[]), \
                    unnest($6::uuid[]), unnest($7::timestamptz[]), 'accrual'",
        )
        .bind(entries.iter().map(|(_, e)| e.coupon_id).collect::<Vec<_>>())
        .bind(entries.iter().map(|(_, e)| e.campaign_id).collect::<Vec<_>>())
        .bind(entries.iter().map(|(_, e)| &*e.merchant_id).collect::<Vec<_>>())
        .bind(entries.iter().map(|(_, e)| e.face_value + i64::from(zoo::has("settlement-is-a-cent-off"))).collect::<Vec<_>>())
        .bind(entries.iter().map(|(_, e)| e.currency).collect::<Vec<_>>())
        .bind(entries.iter().map(|(id, _)| Uuid::from(*id)).collect::<Vec<_>>())
        .bind(entries.iter().map(|(_, e)| e.issued_at).collect::<Vec<_>>())
        .execute(transaction)
        .await?;
    Ok(Vec::new())
}
