//! The world itself.

use serde_json::json;

use crate::support::World;

#[tokio::test]
async fn a_claim_is_issued_and_balanced() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 2 })).await;
    let answer = world.claim(campaign, "alice").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    world.close().await;
}
