//! Rows and bytes that relay and projections leave in the tables, and what retention removes.

use std::time::Duration;

use anyhow::{Result, ensure};
use coupon_dispatcher::event::OUTLET;
use outbox_relay::projection::Applying;
use outbox_relay::retention::Retention;
use outbox_relay::{Event, Projection, Projector};
use sqlx::{ConnectOptions as _, FromRow, PgConnection};
use tokio::task::JoinSet;

use crate::SHARD;
use crate::partitions::{self, PARTITION};
use crate::running::{RunningRelay, Site, stored};
use crate::support::{wait_for, wait_until};

/// The partitions of the outbox and the positions of projections; bytes include indexes.
const TABLES: &str = "SELECT relname::text AS name, pg_total_relation_size(relid) AS bytes, \
    n_tup_ins AS inserted, n_tup_upd AS updated, n_tup_del AS deleted, n_dead_tup AS dead \
    FROM pg_stat_user_tables WHERE relname ~ '^outbox_[0-9]+$' OR relname = 'projection_positions' \
    ORDER BY length(relname), relname";

#[derive(Debug)]
pub(crate) struct Bloat {
    /// Rows of the outbox that were updated or deleted, or are dead.
    pub(crate) changed: f64,
    /// Bytes of the outbox after retention ÷ bytes before.
    pub(crate) left: f64,
}

#[derive(Debug, FromRow)]
struct Table {
    name: String,
    bytes: i64,
    inserted: i64,
    updated: i64,
    deleted: i64,
    dead: i64,
}

/// A projection that only moves its position.
#[derive(Debug)]
struct Nothing;

impl Projection for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }

    fn tables(&self) -> &'static [&'static str] {
        &[]
    }

    fn apply<'a>(&'a self, _: &'a mut PgConnection, _: &'a [Event]) -> Applying<'a> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

pub(crate) async fn measure(site: &Site) -> Result<Bloat> {
    let mut connection = site.database.connect().await?;
    let head: i64 =
        sqlx::query_scalar("SELECT outbox_head($1)").bind(SHARD.0).fetch_one(&mut connection).await?;
    relay_and_project(site, &mut connection, head).await?;
    println!("{head} events, all published and projected:");
    let before = tables(&mut connection, head).await?;

    // One event two partitions ahead: for retention the same as if everything between had been appended.
    partitions::append_at(&mut connection, (head / PARTITION + 2) * PARTITION).await?;
    let retention = Retention { outlet: OUTLET, shards: 1, projections: vec![], keep: Duration::ZERO };
    let dropped = retention.drop_old(&site.database, &site.nats().await?).await?;
    println!(
        "dropped by retention, with the head two partitions ahead (one row, no rows between): {dropped:?}"
    );
    let after = tables(&mut connection, 1).await?;
    let outbox = |tables: &[Table]| -> Vec<(i64, i64)> {
        let partitions = tables.iter().filter(|table| table.name != "projection_positions");
        partitions.map(|table| (table.bytes, table.updated + table.deleted + table.dead)).collect()
    };
    let bytes = |tables: &[Table]| outbox(tables).iter().map(|(bytes, _)| *bytes).sum::<i64>();
    ensure!(!dropped.partitions.is_empty(), "retention dropped nothing");
    let changed = outbox(&before).iter().map(|(_, changed)| *changed).sum::<i64>();
    Ok(Bloat { changed: changed as f64, left: bytes(&after) as f64 / bytes(&before) as f64 })
}

async fn relay_and_project(site: &Site, connection: &mut PgConnection, head: i64) -> Result<()> {
    let mut relay = RunningRelay::start(site).await?;
    stored(&mut relay.status, head).await?;
    let site = outbox_relay::Site::new(OUTLET, SHARD, site.database.clone(), site.nats().await?);
    let projector = Projector::new(site, "bench", vec![Box::new(Nothing)]);
    let mut task = JoinSet::new();
    task.spawn(async move { match projector.run().await {} });
    let applied = "SELECT projection_position('nothing', $1) >= $2";
    wait_until(async || {
        Ok(sqlx::query_scalar(applied).bind(SHARD.0).bind(head).fetch_one(&mut *connection).await?)
    })
    .await
}

/// Prints the tables once the statistics count `inserts` into the outbox: sessions report once a second.
async fn tables(connection: &mut PgConnection, inserts: i64) -> Result<Vec<Table>> {
    let tables = wait_for(async || {
        let tables: Vec<Table> = sqlx::query_as(TABLES).fetch_all(&mut *connection).await?;
        let (positions, outbox): (Vec<_>, Vec<_>) =
            tables.iter().partition(|table| table.name == "projection_positions");
        let counted = outbox.iter().map(|table| table.inserted).sum::<i64>() >= inserts
            && positions.iter().all(|table| table.inserted > 0);
        Ok(counted.then_some(tables))
    })
    .await?;
    println!("{:<22} {:>9} {:>9} {:>8} {:>8} {:>8}", "", "MB", "inserted", "updated", "deleted", "dead");
    for Table { name, bytes, inserted, updated, deleted, dead } in &tables {
        let megabytes = *bytes as f64 / 1_000_000.0;
        println!("{name:<22} {megabytes:>9.2} {inserted:>9} {updated:>8} {deleted:>8} {dead:>8}");
    }
    Ok(tables)
}
