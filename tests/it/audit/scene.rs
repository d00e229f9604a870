//! A balanced world, in which something is about to be changed.

use async_nats::jetstream;
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::ids::CampaignId;
use serde_json::json;
use ulid::Ulid;
use uuid::Uuid;

use super::SHARD;
use crate::support::World;

/// A campaign with coupons, another that settles later, and the tenth coupon of the first.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) campaign: CampaignId,
    pub(super) other: CampaignId,
    pub(crate) coupon: Ulid,
    pub(crate) user: String,
}

impl Scene {
    pub(crate) async fn start() -> Self {
        let world = World::with_processes(&["api", "project", "relay"]).await;
        let campaign = world.open_campaign(json!({ "quantity": 30 })).await;
        let other = world.open_campaign(json!({ "quantity": 10, "settle_on": "redeem" })).await;
        for campaign in [campaign, other] {
            world.answered(&world.rush(campaign, 20).run().await).await;
        }
        world.balanced().await;
        let (coupon, user): (Uuid, String) =
            sqlx::query_as("SELECT id, user_id FROM coupons WHERE campaign_id = $1 AND number = 10")
                .bind(Uuid::from(campaign.0))
                .fetch_one(&world.pool)
                .await
                .unwrap();
        Self { world, campaign, other, coupon: coupon.into(), user }
    }

    /// The audit finds a difference, and its words contain all of these.
    pub(super) async fn assert_named(&self, arguments: &[&str], words: &[&str]) {
        let finished = self.world.coupon(arguments).await;
        assert_eq!(finished.code, Some(1), "{arguments:?}: {finished:?}");
        let difference = finished.out.lines().last().unwrap();
        for word in words.iter().chain(&["not balanced: "]) {
            assert!(difference.contains(word), "{arguments:?}: no {word:?} in {difference:?}");
        }
    }

    pub(super) async fn assert_balanced(&self, arguments: &[&str]) {
        let finished = self.world.coupon(arguments).await;
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        assert_eq!(finished.out.lines().last(), Some("balanced"));
    }

    /// Takes the only row that fits the condition.
    pub(crate) async fn take(&self, table: &'static str, condition: &str) -> (&'static str, String) {
        let statement = format!("DELETE FROM {table} AS t WHERE {condition} RETURNING row_to_json(t)::text");
        let rows: Vec<String> = sqlx::query_scalar(&statement).fetch_all(&self.world.pool).await.unwrap();
        assert_eq!(rows.len(), 1, "{table}: {condition}");
        (table, rows.into_iter().next().unwrap())
    }

    pub(crate) async fn put(&self, (table, row): (&str, String)) {
        let statement =
            format!("INSERT INTO {table} SELECT * FROM json_populate_record(NULL::{table}, $1::json)");
        sqlx::query(&statement).bind(row).execute(&self.world.pool).await.unwrap();
    }

    pub(super) async fn execute(&self, statement: &str) {
        assert_eq!(sqlx::query(statement).execute(&self.world.pool).await.unwrap().rows_affected(), 1);
    }

    pub(crate) fn is_the_coupon(&self, column: &str) -> String {
        format!("{column} = '{}'", Uuid::from(self.coupon))
    }

    pub(super) fn is_the_campaign(&self) -> String {
        format!("campaign_id = '{}'", Uuid::from(self.campaign.0))
    }

    pub(crate) fn holders(&self) -> String {
        World::gate(self.campaign, ":holders")
    }

    /// The stream as it was: made again from the outbox.
    pub(crate) async fn remake_stream(&mut self) {
        // Nobody makes it again while it is being deleted.
        self.world.processes[1].kill();
        self.world.processes[2].kill();
        jetstream::new(self.world.nats().await).delete_stream(OUTLET.stream_of(SHARD)).await.unwrap();
        self.world.processes[1].start().await;
        self.world.processes[2].start().await;
        self.world.balanced().await;
    }
}
