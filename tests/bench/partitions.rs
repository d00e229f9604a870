//! The cost of a year's partitions, in a separate database.

use std::time::{Duration, Instant};

use anyhow::Result;
use coupon_dispatcher::config::FIRST_DEPLOYMENT;
use coupon_dispatcher::schema;
use outbox_relay::event::StoredEvent;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};

use crate::appender::{Appended, Appender};
use crate::running::Site;
use crate::{SHARD, quantile};

/// Positions in a partition.
pub(crate) const PARTITION: i64 = 1_000_000;
/// Partitions besides the first two: one a day for a year.
const MADE: i64 = 365;
const EVENTS: usize = 100;
const CALLS: usize = 200;

/// Medians, with a given number of partitions.
#[derive(Debug)]
pub(crate) struct Partitions {
    pub(crate) name: String,
    pub(crate) append_us: f64,
    pub(crate) head_us: f64,
    /// Time of one read, with the statement of the relay.
    pub(crate) read_us: f64,
}

pub(crate) async fn measure(site: &Site) -> Result<Vec<Partitions>> {
    sqlx::query("CREATE DATABASE year").execute(&mut site.database.connect().await?).await?;
    let database = site.database.clone().database("year");
    let mut connection = database.connect().await?;
    schema::migrate(&mut connection, 1, FIRST_DEPLOYMENT.parse()?).await?;
    println!("{:<22} {:>9} {:>9} {:>9} {:>13}", "", "append", "head", "read", "first append");
    let few = state(&database, "2 partitions").await?;
    for number in 1..=MADE {
        add_partitions(&mut connection, number * PARTITION).await?;
    }
    let ahead = state(&database, &format!("{} partitions, ahead", MADE + 2)).await?;
    // Then all but the last two are behind the head.
    append_at(&mut connection, MADE * PARTITION).await?;
    let behind = state(&database, &format!("{} partitions, behind", MADE + 2)).await?;
    Ok(vec![few, ahead, behind])
}

/// Inserts one event at `position`, wherever the head is.
pub(crate) async fn append_at(connection: &mut PgConnection, position: i64) -> Result<()> {
    add_partitions(&mut *connection, position).await?;
    sqlx::query(
        "INSERT INTO outbox (shard, position, event_id, type, key, subject, data, time) \
         VALUES ($1, $2, gen_random_uuid(), 'issued', 'K', 'K', '{}', now())",
    )
    .bind(SHARD.0)
    .bind(position)
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE outbox_heads SET partition = $1")
        .bind(position / PARTITION)
        .execute(connection)
        .await?;
    Ok(())
}

async fn add_partitions(connection: &mut PgConnection, position: i64) -> Result<()> {
    sqlx::query("SELECT outbox_add_partitions($1)").bind(position).execute(connection).await?;
    Ok(())
}

/// Measures in a new session, whose first append makes the plans.
async fn state(database: &PgConnectOptions, name: &str) -> Result<Partitions> {
    let mut appender = Appender::connect(database).await?;
    let first_us = us(appender.append(EVENTS).await?.call);
    let (mut appends, mut heads, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..CALLS {
        let Appended { last, call, .. } = appender.append(EVENTS).await?;
        appends.push(us(call));
        let started = Instant::now();
        sqlx::query("SELECT outbox_head($1)").bind(SHARD.0).execute(&mut appender.connection).await?;
        heads.push(us(started.elapsed()));
        let started = Instant::now();
        StoredEvent::between(&mut appender.connection, SHARD, last - EVENTS as i64, last).await?;
        reads.push(us(started.elapsed()));
    }
    let append_us = quantile(&mut appends, 500);
    let head_us = quantile(&mut heads, 500);
    let read_us = quantile(&mut reads, 500);
    println!("{name:<22} {append_us:>9.0} {head_us:>9.0} {read_us:>9.0} {first_us:>13.0}");
    Ok(Partitions { name: name.to_owned(), append_us, head_us, read_us })
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000_000.0
}
