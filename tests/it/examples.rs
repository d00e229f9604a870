//! The examples of the crate: a shop that is not this service, in a database and streams of its own.

use std::path::Path;

use async_nats::header::NATS_MESSAGE_ID;
use futures_util::future::join_all;
use outbox_relay::Event;
use sqlx::{Connection as _, PgConnection};

use crate::support::{Process, SOON, World, wait_until};

const ORDERS: i64 = 1_000;

/// The shop's database, on the world's servers.
async fn database(world: &World) -> String {
    sqlx::query("CREATE DATABASE shop").execute(&world.pool).await.unwrap();
    let url = world.servers.database_url();
    format!("{}/shop", url.rsplit_once('/').unwrap().0)
}

/// One of the examples, not started. `cargo test --workspace` builds them.
fn example(world: &World, name: &str, database: &str) -> Process {
    let program = Path::new(env!("CARGO_BIN_EXE_coupon")).with_file_name("examples").join(name);
    assert!(program.is_file(), "run `cargo build --workspace --examples`: there is no {}", program.display());
    let mut example = world.program(name, &[program.to_str().unwrap()]);
    example.set("DATABASE_URL", database);
    example.set("NATS_URL", &world.servers.nats_url());
    example
}

/// Waits until it has done all that it does.
async fn done(example: &mut Process) {
    wait_until("the example ends", SOON, async || !example.runs()).await;
    assert_eq!(example.ended().await.code(), Some(0), "{}", example.log());
}

#[tokio::test]
async fn a_shop_sells_tells_and_counts_each_order_once() {
    let world = World::bare(1).await;
    world.migrate().await;
    let database = database(&world).await;
    let (mut produce, mut consume) =
        (example(&world, "produce", &database), example(&world, "consume", &database));
    produce.launch();
    let mut shop = PgConnection::connect(&database).await.unwrap();
    wait_until("some orders are placed", SOON, async || {
        let placed = sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(&mut shop).await;
        placed.unwrap_or(0_i64) >= ORDERS / 10
    })
    .await;
    assert!(produce.runs(), "it was done too soon");
    produce.kill();
    for _ in 0..2 {
        produce.launch();
        consume.launch();
        join_all([done(&mut produce), done(&mut consume)]).await;
    }
    // Once more: the first may have begun before the last order.
    consume.launch();
    done(&mut consume).await;
    assert!(produce.log().ends_with("1000 events are published\n1000 events are published\n"));
    assert_each_once(&world, &mut shop, &consume.log()).await;
    world.close().await;
}

/// What was ordered is what the stream tells, and what was counted.
async fn assert_each_once(world: &World, shop: &mut PgConnection, log: &str) {
    let sold = "SELECT concat(customer, ': ', count(*), ' orders, ', sum(cents), ' cents') \
                FROM orders GROUP BY customer ORDER BY customer";
    let sold: Vec<String> = sqlx::query_scalar(sold).fetch_all(&mut *shop).await.unwrap();
    let counted: Vec<&str> = log.lines().collect();
    assert_eq!(counted[counted.len() - sold.len()..], sold);

    let orders: Vec<(i64, String, i64)> =
        sqlx::query_as("SELECT number, customer, cents FROM orders ORDER BY number")
            .fetch_all(shop)
            .await
            .unwrap();
    assert_eq!(orders.len() as i64, ORDERS);
    let messages = world.messages("ORDERS-0").await;
    assert_eq!(messages.len(), orders.len());
    for ((number, customer, cents), message) in orders.iter().zip(&messages) {
        let sequence = message.info().unwrap().stream_sequence.cast_signed();
        assert_eq!((sequence, message.subject.as_str()), (*number, &*format!("orders.placed.{customer}.0")));
        let event = Event::parse(sequence, &message.payload).unwrap();
        let id = message.headers.as_ref().and_then(|headers| headers.get(NATS_MESSAGE_ID));
        assert_eq!(id.map(ToString::to_string), Some(event.id.to_string()));
        let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
        assert_eq!(data, serde_json::json!({ "number": number, "customer": customer, "cents": cents }));
    }
}
