//! A migration that changes the type of a column breaks the rules, and every statement that a running process has
//! prepared. No request may fail by it.

use serde_json::{Value, json};

use crate::support::{SOON, World, wait_until};

/// Columns that each role reads. Neither type changes what is in them.
const CHANGES: [&str; 5] = [
    "ALTER TABLE campaigns ALTER name TYPE {}",
    "ALTER TABLE coupons ALTER user_id TYPE {}",
    "ALTER TABLE wallet ALTER currency TYPE {}",
    "ALTER TABLE outbox ALTER subject TYPE {}",
    "ALTER TABLE outbox ALTER type TYPE {}",
];

#[tokio::test]
async fn a_column_of_another_type_fails_no_request_and_no_role() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let path = format!("/v1/campaigns/{campaign}");
    let mut users = 0;
    let mut works = async |when: &str| {
        // More often than the pool has connections.
        for _ in 0..12 {
            users += 1;
            let user = format!("user-{users}");
            let issued = world.claim(campaign, &user).await;
            assert_eq!(issued.status, 201, "{when}: {issued:?}");
            assert_eq!(world.claim(campaign, &user).await.problem(), "already-issued", "{when}");
            let coupon = format!("/v1/coupons/{}", issued.body["id"].as_str().unwrap());
            for read in [&coupon, &path, "/v1/campaigns", "/v1/users/user-1/coupons", "/readyz"] {
                let answer = world.api().get(read).await;
                assert_eq!(answer.status, 200, "{when}: {answer:?}");
            }
            let other = world.open_campaign(json!({})).await;
            let close = format!("/v1/campaigns/{other}/close");
            assert_eq!(world.api().post(&close, &Value::Null).await.status, 200, "{when}");
            assert!(world.api().get("/metrics").await.text.contains("outbox_sampled 1"), "{when}");
        }
    };
    works("before").await;
    for to in ["varchar", "text"] {
        for change in CHANGES {
            world.execute(&change.replace("{}", to)).await;
        }
        works(to).await;
        world.assert_published().await;
    }
    let log = || world.processes[0].log();
    wait_until("all is projected", SOON, async || world.sheet().await.is_ok_and(|sheet| sheet.is_balanced()))
        .await;
    assert!(!log().contains("a batch was not written") && !log().contains("sweeping fails"), "{}", log());
    world.close().await;
}
