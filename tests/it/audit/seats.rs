//! Seats at the gate that are gone or added.

use redis::AsyncCommands as _;

use super::{FULL, QUICK, Scene};

#[tokio::test]
async fn a_seat_that_is_missing_or_too_much_is_named() {
    let mut scene = Scene::start().await;
    scene.world.processes[0].kill(); // its sweeper would put the gate right
    let (campaign, coupon) = (scene.campaign.to_string(), scene.coupon.to_string());
    let mut redis = scene.world.redis().await;

    let () = redis.srem(scene.holders(), &scene.user).await.unwrap();
    scene.assert_named(QUICK, &[&campaign, &coupon, "19 seats"]).await;
    let () = redis.sadd(scene.holders(), "a-thief").await.unwrap();
    scene.assert_named(FULL, &[&campaign, &coupon]).await; // the counts agree
    let () = redis.sadd(scene.holders(), &scene.user).await.unwrap();
    scene.assert_named(QUICK, &[&campaign, "21 seats", "seat a-thief has no coupon"]).await;
    let () = redis.srem(scene.holders(), "a-thief").await.unwrap();

    // A gate that is not loaded says nothing wrong.
    let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}
