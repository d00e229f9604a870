//! The log in JSON.

use serde_json::{Value, json};

use super::{TRACE, TRACEPARENT, is_logged};
use crate::support::World;

/// With the fields of the request beside those of the event.
#[tokio::test]
async fn a_log_in_json_is_one_flat_object_a_line() {
    let mut world = World::with_processes(&[]).await;
    let mut process = world.process("api");
    process.set("LOG_FORMAT", "json");
    process.start().await;
    world.processes.push(process);
    let wallet = |from: &str, to: &str| format!("ALTER TABLE {from} RENAME TO {to}");
    sqlx::query(&wallet("wallet", "purse")).execute(&world.pool).await.unwrap();
    let traced = world.api().with("traceparent", TRACEPARENT);
    assert_eq!(traced.get("/v1/users/alice/coupons").await.status, 500);
    is_logged(&world, &["\"the database failed a request\""]).await;
    sqlx::query(&wallet("purse", "wallet")).execute(&world.pool).await.unwrap();

    let log = world.processes[0].log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        for name in ["timestamp", "level", "target", "message"] {
            assert!(line[name].is_string(), "{name}: {line}");
        }
        assert!(line.as_object().unwrap().values().all(|value| !value.is_object()), "{line}");
    }
    let of = |message: &str| {
        lines.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("{log}"))
    };
    let failed = of("the database failed a request");
    assert_eq!((&failed["level"], &failed["method"]), (&json!("ERROR"), &json!("GET")));
    assert_eq!(
        (&failed["route"], &failed["trace_id"]),
        (&json!("/v1/users/{user_id}/coupons"), &json!(TRACE))
    );
    assert!(failed["error"].as_str().unwrap().contains("does not exist"), "{failed}");
    let start = of("coupon starts");
    assert_eq!((&start["version"], &start["roles"]), (&json!(env!("CARGO_PKG_VERSION")), &json!("api")));
    assert_eq!((&start["shards"], &start["deployment"]), (&json!(1), &json!("coupon")));
    for server in ["postgres", "redis", "nats"] {
        assert!(start[server].as_str().unwrap().contains("://"), "{start}");
    }
    world.close().await;
}
