//! A shop: it commits each order together with its event, and a relay publishes the events. Kill it at any point
//! and run it again: it publishes what was committed, and places no order twice.
//!
//! `DATABASE_URL=postgres://… NATS_URL=nats://… cargo run -p outbox-relay --example produce`

use std::error::Error;

use outbox_relay::{NewEvent, Outlet, Relay, Shard, Site, append};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use ulid::Ulid;

/// Streams `ORDERS-<shard>`, subjects `orders.<type>.<customer>.<shard>`, types `order.<type>.v1`.
const OUTLET: Outlet =
    Outlet { stream: "ORDERS", subjects: "orders", types: "order", source: "/shop", deployment: None };
/// One shard is enough for a small shop.
const SHARD: Shard = Shard(0);
const ORDERS: i64 = 1_000;
const CUSTOMERS: i64 = 7;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let database: PgConnectOptions = std::env::var("DATABASE_URL")?.parse()?;
    let nats = async_nats::connect(std::env::var("NATS_URL")?).await?;
    let mut connection = database.connect().await?;
    outbox_relay::schema::migrate(&mut connection).await?;
    let table = "CREATE TABLE IF NOT EXISTS orders (number bigint PRIMARY KEY, customer text, cents bigint)";
    sqlx::raw_sql(table).execute(&mut connection).await?;
    let site = Site::new(OUTLET, SHARD, database, nats);
    let relay = Relay::new(site.clone(), 1);
    let mut status = relay.status();
    let place_all = async {
        for number in 1..=ORDERS {
            place(&mut connection, number).await?;
            site.appended.notify_one();
        }
        let head = sqlx::query_scalar("SELECT outbox_head($1)").bind(SHARD.0);
        let head: i64 = head.fetch_one(&mut connection).await?;
        let status = status.wait_for(|status| status.published >= head || status.halted.is_some()).await?;
        status.halted.clone().map_or(Ok(status.published), |halt| Err(halt.into()))
    };
    let published: Result<i64, Box<dyn Error>> = tokio::select! {
        published = place_all => published,
        never = relay.run() => match never {},
    };
    println!("{} events are published", published?);
    Ok(())
}

/// Commits the order and its event, or neither.
async fn place(connection: &mut PgConnection, number: i64) -> Result<(), Box<dyn Error>> {
    let (customer, cents) = (format!("customer-{}", number % CUSTOMERS), 100 + number);
    let mut transaction = connection.begin().await?;
    let placed = sqlx::query("INSERT INTO orders VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
        .bind(number)
        .bind(&customer)
        .bind(cents)
        .execute(&mut *transaction)
        .await?;
    if placed.rows_affected() == 1 {
        let event = NewEvent {
            id: Ulid::generate(),
            kind: "placed",
            data: json!({ "number": number, "customer": customer, "cents": cents }).to_string(),
            key: customer,
            subject: number.to_string(),
            traceparent: None,
            request_id: None,
        };
        append(&mut transaction, SHARD, &[event]).await?; // last, because it locks the shard
    }
    Ok(transaction.commit().await?)
}
