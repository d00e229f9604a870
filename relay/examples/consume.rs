//! A projection of the events of the example `produce`: what the shop has sold to each customer. Kill it at any
//! point and run it again.
//!
//! `DATABASE_URL=postgres://… NATS_URL=nats://… cargo run -p outbox-relay --example consume`

use std::error::Error;

use outbox_relay::projection::{ApplyError, Applying};
use outbox_relay::{Event, NewEvent, Outlet, Projection, Projector, Shard, Site};
use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};

const OUTLET: Outlet =
    Outlet { stream: "ORDERS", subjects: "orders", types: "order", source: "/shop", deployment: None };

/// Adds a row for each batch and customer, because updating one row repeatedly is slow.
#[derive(Debug)]
struct Turnover;

impl Projection for Turnover {
    fn name(&self) -> &'static str {
        "turnover"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["turnover"]
    }

    fn apply<'a>(&'a self, transaction: &'a mut PgConnection, events: &'a [Event]) -> Applying<'a> {
        Box::pin(add(transaction, events))
    }
}

#[derive(Deserialize)]
struct Placed {
    customer: String,
    cents: i64,
}

async fn add(transaction: &mut PgConnection, events: &[Event]) -> Result<Vec<NewEvent>, ApplyError> {
    let (mut customers, mut cents) = (Vec::new(), Vec::new());
    for event in events.iter().filter(|event| event.kind == "order.placed.v1") {
        let placed: Placed = serde_json::from_slice(&event.data)
            .map_err(|source| ApplyError::Unreadable { position: event.position, source })?;
        customers.push(placed.customer);
        cents.push(placed.cents);
    }
    sqlx::query(
        "INSERT INTO turnover (customer, orders, cents) SELECT customer, count(*), sum(cents) \
         FROM unnest($1::text[], $2::bigint[]) AS placed (customer, cents) GROUP BY customer",
    )
    .bind(customers)
    .bind(cents)
    .execute(transaction)
    .await?;
    Ok(Vec::new())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let database: PgConnectOptions = std::env::var("DATABASE_URL")?.parse()?;
    let nats = async_nats::connect(std::env::var("NATS_URL")?).await?;
    let mut connection = database.connect().await?;
    outbox_relay::schema::migrate(&mut connection).await?;
    let table = "CREATE TABLE IF NOT EXISTS turnover (customer text, orders bigint, cents bigint)";
    sqlx::raw_sql(table).execute(&mut connection).await?;
    let head: i64 = sqlx::query_scalar("SELECT outbox_head(0::smallint)").fetch_one(&mut connection).await?;
    let site = Site::new(OUTLET, Shard(0), database, nats);
    let projector = Projector::new(site, "turnover", vec![Box::new(Turnover)]);
    let mut position = projector.position();
    tokio::select! {
        reached = position.wait_for(|position| *position >= head) => drop(reached?),
        never = projector.run() => match never {},
    }
    let totals = "SELECT concat(customer, ': ', sum(orders), ' orders, ', sum(cents), ' cents') \
                  FROM turnover GROUP BY customer ORDER BY customer";
    let totals: Vec<String> = sqlx::query_scalar(totals).fetch_all(&mut connection).await?;
    println!("{}", totals.join("\n"));
    Ok(())
}
