//! The changes of a coupon, as a list: who changed it, when, and for which order.

use serde::{Serialize, Serializer};
use sqlx::FromRow;
use time::OffsetDateTime;
use ulid::Ulid;

use super::change::{ChangeKind, CouponChange};
use crate::coupon::changing::Home;
use crate::page::{Page, PageRequest};
use crate::pool::Pool;
use crate::storage::{StorageError, prepared, read};

/// A cursor in the list: which change of the coupon, in the form that all cursors have.
#[derive(Clone, Copy, Debug)]
pub struct Cursor(i32);

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Ulid(self.0.unsigned_abs().into()))
    }
}

/// Changes of coupons. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Log(Pool);

impl Log {
    pub(super) fn new(pool: Pool) -> Self {
        Self(pool)
    }

    /// The changes of a coupon, the newest first.
    pub(super) async fn page(
        &self,
        home: Home,
        page: PageRequest,
    ) -> Result<Page<CouponChange, Cursor>, StorageError> {
        let Self(pool) = self;
        let before = page.before.map(|cursor| i32::try_from(cursor.0).unwrap_or(i32::MAX));
        let changes = "SELECT nth, kind, at, actor, request_id, order_ref, amount FROM coupon_changes \
                       WHERE coupon_id = $1 AND ($2::int IS NULL OR nth < $2) ORDER BY nth DESC LIMIT $3";
        let query = || sqlx::query_as(changes).bind(home.id).bind(before).bind(page.limit.get());
        let rows = async || prepared!(pool, |connection| query().fetch_all(connection));
        let rows: Vec<Row> = read(pool, rows).await?;
        let changes = rows.into_iter().map(|row| CouponChange {
            coupon_id: home.id,
            campaign_id: home.campaign_id,
            user_id: home.user_id.clone(),
            nth: row.nth,
            kind: row.kind,
            at: row.at,
            actor: row.actor,
            request_id: row.request_id,
            order_ref: row.order_ref,
            amount: row.amount,
            currency: home.currency,
        });
        Ok(Page::new(changes.collect(), page.limit, |last: &CouponChange| Cursor(last.nth)))
    }
}

/// A row of `coupon_changes`.
#[derive(FromRow)]
struct Row {
    nth: i32,
    kind: ChangeKind,
    at: OffsetDateTime,
    actor: String,
    request_id: Option<String>,
    order_ref: Option<String>,
    amount: Option<i64>,
}
