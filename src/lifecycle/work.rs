//! Changes of coupons as the work of a writer: one call of `change_coupons()`, one transaction, an answer for each.

use std::collections::HashSet;
use std::time::Instant;

use outbox_relay::Shard;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::change::{Asked, ChangeKind, CouponChange, Outcome, Reason, Wanted};
use crate::cause::{Cause, RequestId, Traceparent};
use crate::coupon::rising::RisingIds;
use crate::idempotency::Keyed;
use crate::ids::{CouponId, MerchantId, OrderRef, UserId};
use crate::writer::{Work, WriteError};

/// Who changes a coupon when its time has come. `change_coupons()` names it too.
const CLOCK: &str = "clock";

/// Writes changes of coupons, and answers them.
#[derive(Debug)]
pub struct Changes {
    ids: RisingIds,
}

impl Changes {
    #[must_use]
    pub fn new() -> Self {
        Self { ids: RisingIds::new() }
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self::new()
    }
}

impl Work for Changes {
    type Item = Asked;
    /// One for each item, in their order.
    type Answer = Outcome;

    fn asked_at(asked: &Asked) -> Instant {
        asked.since
    }

    /// No coupon twice, no idempotency key twice, and no order twice.
    fn take_together(batch: &mut Vec<Asked>) -> Vec<Asked> {
        let (mut coupons, mut keys, mut orders) = (HashSet::new(), HashSet::new(), HashSet::new());
        let (together, later) = batch.drain(..).partition(|asked| {
            let order = asked.wanted.order_ref.as_ref();
            coupons.insert(asked.coupon)
                && asked.keyed.as_ref().is_none_or(|keyed| keys.insert(keyed.key()))
                && order.is_none_or(|order| orders.insert(order.clone()))
        });
        *batch = later;
        together
    }

    async fn write(
        &mut self,
        connection: &mut PgConnection,
        shard: Shard,
        items: &[Asked],
    ) -> Result<Vec<Outcome>, sqlx::Error> {
        let mut new_ids = || items.iter().map(|_| self.ids.generate().into()).collect::<Vec<Uuid>>();
        let wanted = || items.iter().map(|item| &item.wanted);
        let causes = || items.iter().map(|item| item.cause.as_ref());
        let keys = || items.iter().map(|item| item.keyed.as_ref());
        // All rows are read, up to ReadyForQuery: the rows come before the commit, that comes after.
        let rows = sqlx::query(
            "SELECT item, outcome, reasons, nth, kind, changed_at, actor, request_id, order_ref, amount, user_id, return_number, currency \
             FROM change_coupons($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
        )
        .bind(shard)
        .bind(wanted().map(|wanted| wanted.kind.as_str()).collect::<Vec<_>>())
        .bind(items.iter().map(|item| item.coupon).collect::<Vec<CouponId>>())
        .bind(items.iter().map(|item| item.coupon.to_string()).collect::<Vec<_>>())
        .bind(items.iter().map(|item| item.campaign.to_string()).collect::<Vec<_>>())
        .bind(new_ids())
        .bind(new_ids())
        .bind(causes().map(actor).collect::<Vec<_>>())
        .bind(causes().map(|cause| cause?.request_id.as_ref().map(RequestId::as_str)).collect::<Vec<_>>())
        .bind(causes().map(|cause| cause?.traceparent.as_ref().map(Traceparent::as_str)).collect::<Vec<_>>())
        .bind(wanted().map(|wanted| wanted.order_ref.as_ref().map(OrderRef::as_str)).collect::<Vec<_>>())
        .bind(wanted().map(|wanted| wanted.amount).collect::<Vec<_>>())
        .bind(wanted().map(holder).collect::<Vec<_>>())
        .bind(wanted().map(|wanted| wanted.merchant.as_ref().map(MerchantId::as_str)).collect::<Vec<_>>())
        .bind(wanted().map(|wanted| wanted.currency).collect::<Vec<_>>())
        .bind(keys().map(|keyed| keyed.map(Keyed::key)).collect::<Vec<_>>())
        .bind(keys().map(|keyed| keyed.map(|keyed| keyed.request().to_vec())).collect::<Vec<_>>())
        .bind(wanted().map(|wanted| wanted.is_tried).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
        if rows.len() != items.len() {
            return Err(sqlx::Error::RowNotFound);
        }
        rows.iter().zip(items).map(|(row, item)| outcome(row, item)).collect()
    }

    fn settle(&mut self, items: Vec<Asked>, result: Result<Vec<Outcome>, WriteError>) {
        match result {
            Ok(outcomes) => {
                for (item, outcome) in items.into_iter().zip(outcomes) {
                    item.answer(Ok(outcome));
                }
            }
            Err(error) => items.into_iter().for_each(|item| item.answer(Err(error))),
        }
    }
}

impl Asked {
    /// Answers the caller, unless they have gone.
    fn answer(self, outcome: Result<Outcome, WriteError>) {
        let _gone = self.reply.send(outcome);
    }
}

fn actor(cause: Option<&Cause>) -> String {
    cause.map_or_else(|| CLOCK.to_owned(), |cause| cause.principal.to_string())
}

fn holder(wanted: &Wanted) -> Option<&str> {
    wanted.holder.as_ref().map(UserId::as_str)
}

/// What a row says of an item.
fn outcome(row: &PgRow, item: &Asked) -> Result<Outcome, sqlx::Error> {
    let change = || {
        Ok::<_, sqlx::Error>(match row.try_get::<Option<ChangeKind>, _>("kind")? {
            Some(kind) => Some(CouponChange {
                coupon_id: item.coupon,
                campaign_id: item.campaign,
                user_id: row.try_get("user_id")?,
                nth: row.try_get("nth")?,
                kind,
                at: row.try_get("changed_at")?,
                actor: row.try_get("actor")?,
                request_id: row.try_get("request_id")?,
                order_ref: row.try_get("order_ref")?,
                amount: row.try_get("amount")?,
                currency: row.try_get("currency")?,
            }),
            None => None,
        })
    };
    let made = || change()?.ok_or(sqlx::Error::RowNotFound);
    Ok(match row.try_get("outcome")? {
        "changed" => Outcome::Changed(made()?, row.try_get::<Option<i32>, _>("return_number")?.is_some()),
        "replayed" => Outcome::Replayed(made()?),
        "possible" => Outcome::Possible,
        "refused" => {
            let words: Vec<String> = row.try_get("reasons")?;
            let reasons = words.iter().filter_map(|word| Reason::named(word)).collect();
            Outcome::Refused(reasons, change()?)
        }
        "key_reused" => Outcome::KeyReused,
        "unknown" => Outcome::NoSuchCoupon,
        other => return Err(sqlx::Error::Protocol(format!("change_coupons() answered {other:?}"))),
    })
}
