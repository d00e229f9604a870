//! A login, each of whose defaults is another than the service relies on.

use serde_json::json;

use crate::support::{SOON, World, coupon, wait_until};

/// What an administrator, a template or a provider may have set for a login or a database.
pub(crate) const DEFAULTS: [(&str, &str); 15] = [
    ("default_transaction_isolation", "'serializable'"),
    ("default_transaction_deferrable", "on"),
    ("synchronous_commit", "off"),
    ("statement_timeout", "'50ms'"),
    ("lock_timeout", "'1ms'"),
    ("idle_in_transaction_session_timeout", "'1ms'"),
    ("idle_session_timeout", "'100ms'"),
    ("search_path", "pg_catalog"),
    ("TimeZone", "'Asia/Kolkata'"),
    ("DateStyle", "'German, DMY'"),
    ("IntervalStyle", "iso_8601"),
    ("bytea_output", "escape"),
    ("standard_conforming_strings", "off"),
    ("transform_null_equals", "on"),
    ("array_nulls", "off"),
];

#[tokio::test]
async fn the_defaults_of_the_login_do_not_matter() {
    let mut world = World::bare(1).await;
    sqlx::raw_sql("CREATE ROLE hostile LOGIN SUPERUSER").execute(&world.pool).await.unwrap();
    for (setting, value) in DEFAULTS {
        let set = format!("ALTER ROLE hostile SET {setting} = {value}");
        sqlx::raw_sql(&set).execute(&world.pool).await.unwrap();
    }
    let mut environment = world.environment();
    for (name, value) in &mut environment {
        if *name == "DATABASE_URL" {
            *value = value.replace("//coupon@", "//hostile@");
            assert!(value.contains("hostile"), "{value}");
        }
    }
    let migrated = coupon(&["migrate"], &environment).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    for _ in 0..2 {
        let mut process = world.process("");
        for (name, value) in &environment {
            process.set(name, value);
        }
        process.start().await;
        world.processes.push(process);
    }
    let campaign = world.open_campaign(json!({ "quantity": 500 })).await;
    world.answered(&world.rush(campaign, 700).run().await).await;
    assert_eq!(world.coupons(campaign).await, 500);
    world.balanced_within(SOON).await;
    let audited = async || coupon(&["audit", "--full"], &environment).await.code == Some(0);
    wait_until("the audit balances", SOON, audited).await;
    for command in [&["rebuild", "wallet"][..], &["replay", "--type", "issued"], &["dead", "list"]] {
        let finished = coupon(command, &environment).await;
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }
    world.close().await;
}
