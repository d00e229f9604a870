//! `issue_batch_2()` with claims of several campaigns: each is judged by its own campaign alone.

use coupon_dispatcher::ids::CampaignId;
use serde_json::json;
use sqlx::Row as _;
use ulid::Ulid;
use uuid::Uuid;

use crate::support::{World, in_seconds};

/// The verdict on each claim. `claims` are those of each campaign in turn; the id of each request is the user.
async fn judge(world: &World, claims: &[(CampaignId, &[&str])]) -> Vec<String> {
    let users: Vec<&str> = claims.iter().flat_map(|(_, users)| users.iter().copied()).collect();
    let lasts = claims.iter().scan(0, |last, (_, users)| {
        *last += i32::try_from(users.len()).unwrap();
        Some(*last)
    });
    let ids = |count: usize| (0..count).map(|_| Ulid::generate()).collect::<Vec<_>>();
    let uuids = |ids: &[Ulid]| ids.iter().map(|id| Uuid::from(*id)).collect::<Vec<_>>();
    let coupons = ids(users.len());
    let rows = sqlx::query(
        "SELECT claims, verdict FROM issue_batch_2(0::smallint, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $5, NULL)",
    )
    .bind(claims.iter().map(|(campaign, _)| Uuid::from(campaign.0)).collect::<Vec<_>>())
    .bind(claims.iter().map(|(campaign, _)| campaign.to_string()).collect::<Vec<_>>())
    .bind(uuids(&ids(claims.len())))
    .bind(lasts.collect::<Vec<_>>())
    .bind(&users)
    .bind(uuids(&coupons))
    .bind(coupons.iter().map(ToString::to_string).collect::<Vec<_>>())
    .bind(coupons.iter().map(ToString::to_string).collect::<Vec<_>>())
    .bind(uuids(&ids(users.len())))
    .bind(vec![None::<String>; users.len()])
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let mut verdicts = vec![String::new(); users.len()];
    for row in rows {
        for claim in row.get::<Vec<i32>, _>("claims") {
            verdicts[usize::try_from(claim).unwrap() - 1] = row.get("verdict");
        }
    }
    verdicts
}

#[tokio::test]
async fn each_campaign_of_a_batch_is_judged_by_itself() {
    let world = World::with_processes(&[""]).await;
    let full = world.open_campaign(json!({ "quantity": 1 })).await;
    assert_eq!(world.claim(full, "alice").await.status, 201);
    let one_left = world.open_campaign(json!({ "quantity": 2 })).await;
    assert_eq!(world.claim(one_left, "alice").await.status, 201);
    let closed = world.open_campaign(json!({})).await;
    let close = format!("/v1/campaigns/{closed}/close");
    assert_eq!(world.api().post(&close, &json!(null)).await.status, 200);
    let early = world.create_campaign(json!({ "opens_at": in_seconds(3_600) })).await;
    let open = world.open_campaign(json!({})).await;
    let unknown = CampaignId(Ulid::generate());
    let users: &[&str] = &["alice", "bob", "carol"];
    let mut claims = [full, closed, one_left, early, open, unknown].map(|campaign| (campaign, users));
    let expected = [
        ["held", "sold_out", "sold_out"],
        ["closed"; 3],
        ["held", "issued", "sold_out"],
        ["not_open"; 3],
        ["issued"; 3],
        ["not_open"; 3],
    ];
    let judged = judge(&world, &claims).await;
    assert_eq!(judged, expected.concat());
    // The same claims in another order: each winner holds a coupon now.
    claims.reverse();
    let again = judge(&world, &claims).await;
    let expected =
        [["not_open"; 3], ["held"; 3], ["not_open"; 3], ["held", "held", "sold_out"], ["closed"; 3]];
    assert_eq!(again[..15], expected.concat());
    // Whether all of a batch win or some lose, each event names its own request and coupon.
    judge(&world, &[(open, &["dave", "erin"])]).await;
    let own = "SELECT count(*) FILTER (WHERE data ->> 'user_id' = request_id AND data ->> 'coupon_id' = subject \
               AND data ->> 'campaign_id' = key), count(*) \
               FROM outbox WHERE type = 'issued' AND request_id = ANY ('{alice,bob,carol,dave,erin}')";
    let counts: (i64, i64) = sqlx::query_as(own).fetch_one(&world.pool).await.unwrap();
    assert_eq!(counts, (6, 6));
    world.close().await;
}
