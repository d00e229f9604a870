//! The cost of appending, alone and within `issue_batch_2()`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use coupon_dispatcher::coupon::code::new_code;
use coupon_dispatcher::ids::CouponId;
use coupon_dispatcher::storage::PLANS;
use coupon_dispatcher::writer::ONE_PLAN;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _};
use ulid::Ulid;
use uuid::Uuid;

use crate::appender::Appender;
use crate::running::Site;
use crate::support::wait_for;
use crate::{SHARD, quantile};

pub(crate) const BATCHES: usize = 200;
const ISSUED_TOGETHER: usize = 100;
const CAMPAIGN: &str = "INSERT INTO campaigns (id, shard, name, merchant_id, face_value, currency, quantity, \
    per_user_limit, opens_at, closes_at, coupon_valid_for, settle_on, state) \
    VALUES ($1, $2, 'Bench', 'bench', 100, 'EUR', 10000000, \
    1, now(), now() + interval '1 day', 86400, 'issue', 'open')";
const ISSUE: &str = "SELECT claims, verdict, nths, numbers, issued_at, expires_at, coupon_id, code, state \
    FROM issue_batch_2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, NULL, NULL)";
/// Milliseconds that `$2` calls of a function took, including the functions that they called.
const SPENT: &str = "SELECT total_time FROM pg_stat_user_functions WHERE funcname = $1 AND calls = $2";

/// The time of `outbox_append_2()` as a share of other times.
#[derive(Debug)]
pub(crate) struct Cost {
    /// Of the time of a separate `append`.
    pub(crate) to_alone: f64,
    /// Of the time of `issue_batch_2()`.
    pub(crate) within: f64,
    /// Of the whole call of `issue_batch_2()`, with round trip and commit.
    pub(crate) of_the_call: f64,
}

pub(crate) async fn measure(site: &Site) -> Result<Cost> {
    let mut appender = Appender::connect(&site.database).await?;
    println!("{:>9} {:>9} {:>12}", "batch", "append", "transaction");
    let mut alone_us = 0.0;
    for count in [1, 10, ISSUED_TOGETHER, 500] {
        appender.append(count).await?;
        let (mut calls, mut transactions) = (Vec::new(), Vec::new());
        for _ in 0..BATCHES {
            let batch = appender.append(count).await?;
            calls.push(us_an_event(batch.call, count));
            transactions.push(us_an_event(batch.transaction, count));
        }
        let (call, transaction) = (quantile(&mut calls, 500), quantile(&mut transactions, 500));
        println!("{count:>9} {call:>9.1} {transaction:>12.1}");
        if count == ISSUED_TOGETHER {
            alone_us = call;
        }
    }
    issue(site, alone_us).await
}

/// Measures both functions in the same calls: Postgres times its functions, without the commit.
async fn issue(site: &Site, alone_us: f64) -> Result<Cost> {
    let mut connection = site.database.clone().options(PLANS).options([ONE_PLAN]).connect().await?;
    let campaign = Ulid::generate();
    sqlx::query(CAMPAIGN).bind(Uuid::from(campaign)).bind(SHARD.0).execute(&mut connection).await?;
    issue_batch(&mut connection, campaign).await?; // makes the plans
    sqlx::query("SET track_functions = 'pl'").execute(&mut connection).await?;
    let mut called = Duration::ZERO;
    for _ in 0..BATCHES {
        called += issue_batch(&mut connection, campaign).await?;
    }
    connection.close().await?; // the session then reports its statistics

    let mut connection = site.database.connect().await?;
    let issued_ms = spent_ms(&mut connection, "issue_batch_2").await?;
    let appended_ms = spent_ms(&mut connection, "outbox_append_2").await?;
    let called_ms = called.as_secs_f64() * 1_000.0;
    let per_event = |ms: f64| ms * 1_000.0 / (BATCHES * ISSUED_TOGETHER) as f64;
    println!(
        "issue_batch_2() of {ISSUED_TOGETHER}: {:.1}, of which outbox_append_2() {:.1}; with round trip and commit {:.1}",
        per_event(issued_ms),
        per_event(appended_ms),
        per_event(called_ms),
    );
    Ok(Cost {
        to_alone: per_event(appended_ms) / alone_us,
        within: appended_ms / issued_ms,
        of_the_call: appended_ms / called_ms,
    })
}

/// One call, as the writer makes it, for users without a coupon.
async fn issue_batch(connection: &mut PgConnection, campaign: Ulid) -> Result<Duration> {
    let ids = || (0..ISSUED_TOGETHER).map(|_| Ulid::generate()).collect::<Vec<_>>();
    let uuids = |ids: &[Ulid]| ids.iter().map(|id| Uuid::from(*id)).collect::<Vec<_>>();
    let coupons = ids();
    let call = sqlx::query(ISSUE)
        .bind(SHARD.0)
        .bind(vec![Uuid::from(campaign)])
        .bind(vec![campaign.to_string()])
        .bind(vec![Uuid::from(Ulid::generate())])
        .bind(vec![i32::try_from(ISSUED_TOGETHER)?])
        .bind(ids().iter().map(|user| format!("user-{user}")).collect::<Vec<_>>())
        .bind(uuids(&coupons))
        .bind(coupons.iter().map(ToString::to_string).collect::<Vec<_>>())
        .bind(coupons.iter().map(|id| new_code(CouponId(*id))).collect::<Vec<_>>())
        .bind(uuids(&ids()))
        .bind(vec![None::<String>; ISSUED_TOGETHER]);
    let started = Instant::now();
    let rows = call.fetch_all(connection).await?;
    let took = started.elapsed();
    let issued: Vec<i32> = rows.first().context("issue_batch_2() returned no row")?.try_get("claims")?;
    ensure!(issued.len() == ISSUED_TOGETHER, "issue_batch_2() issued {} of {ISSUED_TOGETHER}", issued.len());
    Ok(took)
}

async fn spent_ms(connection: &mut PgConnection, function: &str) -> Result<f64> {
    wait_for(async || {
        let spent = sqlx::query_scalar(SPENT).bind(function).bind(BATCHES as i64);
        Ok(spent.fetch_optional(&mut *connection).await?)
    })
    .await
}

fn us_an_event(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1_000_000.0 / count as f64
}
