//! A client of the outbox: appends events of the size that the service appends.

use std::time::{Duration, Instant};

use anyhow::Result;
use outbox_relay::{NewEvent, append};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use ulid::Ulid;

use crate::SHARD;

#[derive(Debug)]
pub(crate) struct Appender {
    pub(crate) connection: PgConnection,
    campaign: String,
    number: u64,
}

/// A committed batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    /// Position of its last event.
    pub(crate) last: i64,
    /// Duration of `append` alone.
    pub(crate) call: Duration,
    /// Duration from BEGIN to COMMIT.
    pub(crate) transaction: Duration,
    /// When COMMIT returned.
    pub(crate) at: Instant,
}

impl Appender {
    pub(crate) async fn connect(database: &PgConnectOptions) -> Result<Self> {
        let connection = database.connect().await?;
        Ok(Self { connection, campaign: Ulid::generate().to_string(), number: 0 })
    }

    /// Appends `count` events in one transaction.
    pub(crate) async fn append(&mut self, count: usize) -> Result<Appended> {
        let events = (0..count).map(|_| self.event()).collect::<Vec<_>>();
        let started = Instant::now();
        let mut transaction = self.connection.begin().await?;
        let begun = Instant::now();
        let last = append(&mut transaction, SHARD, &events).await?;
        let call = begun.elapsed();
        transaction.commit().await?;
        let at = Instant::now();
        Ok(Appended { last, call, transaction: at - started, at })
    }

    /// An event with the fields that `issue_batch_2()` writes.
    fn event(&mut self) -> NewEvent {
        self.number += 1;
        let coupon = Ulid::generate().to_string();
        let data = json!({
            "coupon_id": coupon,
            "campaign_id": self.campaign,
            "user_id": format!("user-of-the-bench-{:012}", self.number),
            "number": self.number,
            "issued_at": "2026-11-01T12:00:00.123456Z",
            "expires_at": "2026-12-01T12:00:00.123456Z",
            "merchant_id": "merchant-of-the-bench",
            "face_value": 5_000,
            "currency": "EUR",
            "settle_on": "redeem",
        });
        NewEvent {
            id: Ulid::generate(),
            kind: "issued",
            key: self.campaign.clone(),
            subject: coupon,
            data: data.to_string(),
            traceparent: None,
            request_id: None,
        }
    }
}
