//! A shard or campaign that cannot be audited: the auditor's rounds find what is wrong with the others.

use coupon_dispatcher::audit::Auditor;
use coupon_dispatcher::ids::CampaignId;
use outbox_relay::Shard;
use redis::AsyncCommands as _;
use serde_json::json;
use sqlx::raw_sql;
use uuid::Uuid;

use crate::support::World;

/// A world of two shards, with a campaign and its coupons in each.
async fn two_shards() -> (World, [CampaignId; 2]) {
    let mut world = World::bare(2).await;
    world.migrate().await;
    world.add_process("api,relay").await;
    world.add_process("project").await;
    let mut found = [None; 2];
    while found.contains(&None) {
        let campaign = world.open_campaign(json!({})).await;
        let Shard(shard) = campaign.shard(2);
        found[usize::try_from(shard).unwrap()] = Some(campaign);
    }
    let campaigns = found.map(Option::unwrap);
    for campaign in campaigns {
        world.answered(&world.rush(campaign, 20).run().await).await;
    }
    world.balanced().await;
    (world, campaigns)
}

/// One more round: what could not be audited, and the first difference of the others.
async fn round(auditor: &mut Auditor) -> (String, Option<String>) {
    let failed = auditor.round().await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    let latest = auditor.latest().borrow().clone();
    (failed, latest.and_then(|round| round.first_difference).map(|found| found.to_string()))
}

#[tokio::test]
async fn a_shard_that_fails_hides_no_difference_of_another() {
    let (world, campaigns) = two_shards().await;
    let execute = async |statements: String| raw_sql(&statements).execute(&world.pool).await.unwrap();
    let mut auditor = Auditor::new(world.connections().await.unwrap(), 2);
    execute("ALTER TABLE coupons DROP CONSTRAINT coupons_state_is_known".to_owned()).await;
    for (failing, other) in [(0, 1), (1, 0)] {
        let [of_failing, of_other] = [failing, other]
            .map(|shard| format!("campaign_id = '{}' AND number = 7", Uuid::from(campaigns[shard].0)));
        // A row that this version cannot read.
        execute(format!("UPDATE coupons SET state = 'unheard-of' WHERE {of_failing}")).await;
        let (failed, _) = round(&mut auditor).await;
        assert!(failed.starts_with(&format!("shard {failing}: ")), "{failed}");
        assert_eq!(*auditor.latest().borrow(), None, "nothing can be told of a shard");
        execute(format!(
            "CREATE TABLE kept AS SELECT * FROM wallet WHERE {of_other}; DELETE FROM wallet WHERE {of_other}"
        ))
        .await;
        let mut found = None;
        for _ in 0..2 {
            let failed;
            (failed, found) = round(&mut auditor).await;
            assert!(failed.starts_with(&format!("shard {failing}: ")), "{failed}");
        }
        let found = found.expect("a difference");
        assert!(
            found.contains(&campaigns[other].to_string()) && found.contains("is not in the wallet"),
            "{found}"
        );
        execute("INSERT INTO wallet SELECT * FROM kept; DROP TABLE kept".to_owned()).await;
        execute(format!("UPDATE coupons SET state = 'issued' WHERE {of_failing}")).await;
        assert_eq!(round(&mut auditor).await, (String::new(), None));
        assert!(auditor.latest().borrow().as_ref().is_some_and(|round| round.balanced));
    }
    world.close().await;
}

#[tokio::test]
async fn a_campaign_that_fails_hides_no_difference_of_another() {
    let (mut world, campaigns) = two_shards().await;
    world.processes[0].kill(); // its sweeper would put the gates right
    let mut auditor = Auditor::new(world.connections().await.unwrap(), 2);
    let mut redis = world.redis().await;
    let [failing, other] = campaigns.map(|campaign| World::gate(campaign, ":holders"));
    let seats: Vec<String> = redis.smembers(&failing).await.unwrap();
    let () = redis.del(&failing).await.unwrap();
    let () = redis.set(&failing, "no set").await.unwrap();
    let () = redis.sadd(&other, "a-thief").await.unwrap();
    let mut found = None;
    for _ in 0..2 {
        let failed;
        (failed, found) = round(&mut auditor).await;
        let named = format!("the gate of campaign {}: ", campaigns[0]);
        assert!(failed.starts_with(&named) && failed.contains("WRONGTYPE"), "{failed}");
    }
    let found = found.expect("a difference");
    assert!(found.contains(&campaigns[1].to_string()) && found.contains("20 coupons, 21 seats"), "{found}");
    let () = redis.srem(&other, "a-thief").await.unwrap();
    let () = redis.del(&failing).await.unwrap();
    let () = redis.sadd(&failing, seats).await.unwrap();
    assert_eq!(round(&mut auditor).await, (String::new(), None));
    world.processes[0].start().await;
    world.close().await;
}
