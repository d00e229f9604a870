//! Plans that sessions made while the tables were small, and keep.

use serde_json::{Value, json};
use ulid::Ulid;

use crate::support::{SOON, World, wait_until};

/// Coupons, wallet entries and changes of both that appear at once, of a campaign that nobody asks for.
const ROWS: i64 = 100_000;
/// After five times, Postgres keeps the plan of a statement.
const TIMES: i64 = 6;
/// Rows of these tables that were read one by one, in the order of the table or of an index.
const ROWS_READ: &str = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables \
    WHERE relname IN ('coupons', 'wallet', 'coupon_changes', 'wallet_changes')";

impl World {
    /// Reads by each kind of lookup, while the sweeper makes some rounds. Returns how many rows they took.
    async fn rows_read(&self, campaign: &str, user: &str, coupon: &Value) -> i64 {
        let before: i64 = sqlx::query_scalar(ROWS_READ).fetch_one(&self.pool).await.unwrap();
        let rounds = self.rounds().await;
        for _ in 0..TIMES {
            for path in [
                format!("/v1/coupons/{}", coupon["id"].as_str().unwrap()),
                format!("/v1/coupons?code={}", coupon["code"].as_str().unwrap()),
                format!("/v1/users/{user}/coupons"),
                format!("/v1/campaigns/{campaign}"),
            ] {
                assert_eq!(self.api().get(&path).await.status, 200, "{path}");
            }
            let order = json!({ "order_ref": Ulid::generate().to_string() });
            for action in ["redeem", "restore"] {
                let path = format!("/v1/coupons/{}/{action}", coupon["id"].as_str().unwrap());
                assert_eq!(self.api().post(&path, &order).await.status, 200, "{path}");
            }
            let again = self.claim(campaign.parse().unwrap(), user).await;
            assert_eq!(again.problem(), "already-issued");
        }
        let swept = async || self.rounds().await >= rounds + TIMES;
        wait_until("the sweeper makes rounds", SOON, swept).await;
        sqlx::query_scalar::<_, i64>(ROWS_READ).fetch_one(&self.pool).await.unwrap() - before
    }

    /// How often the sweeper has read the campaigns that take claims.
    async fn rounds(&self) -> i64 {
        let scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'campaigns_live'";
        sqlx::query_scalar(scans).fetch_one(&self.pool).await.unwrap()
    }
}

#[tokio::test]
async fn a_plan_that_was_made_for_small_tables_serves_large_ones() {
    let mut world = World::bare(1).await;
    world.migrate().await;
    // Autovacuum would collect statistics, and Postgres would then plan again.
    sqlx::raw_sql("ALTER SYSTEM SET autovacuum = off").execute(&world.pool).await.unwrap();
    sqlx::raw_sql("SELECT pg_reload_conf()").execute(&world.pool).await.unwrap();
    world.add_process("").await;
    let campaign = world.open_campaign(json!({})).await.to_string();
    let coupon = world.claim(campaign.parse().unwrap(), "user-1").await.body;
    world.balanced().await;
    sqlx::raw_sql("ANALYZE").execute(&world.pool).await.unwrap();
    world.rows_read(&campaign, "user-1", &coupon).await;
    sqlx::query(
        "WITH added AS ( \
             INSERT INTO coupons (id, campaign_id, user_id, nth, number, code, issued_at, expires_at) \
             SELECT gen_random_uuid(), gen_random_uuid(), 'other-' || n, 1, n, n::text, now(), now() + interval '1 day' \
             FROM generate_series(1, $1::integer) AS n RETURNING id, campaign_id, user_id, number, issued_at, expires_at \
         ), changed AS ( \
             INSERT INTO coupon_changes (coupon_id, nth, kind, campaign_id, merchant_id, at, position, actor, order_ref, amount) \
             SELECT id, 1, 'redeemed', campaign_id, 'merchant-1', issued_at, 1, 'nobody', 'other-' || number, 1 FROM added \
         ), applied AS ( \
             INSERT INTO wallet_changes (coupon_id, nth, kind, campaign_id, at) \
             SELECT id, 1, 'redeemed', campaign_id, issued_at FROM added \
         ) INSERT INTO wallet (user_id, coupon_id, campaign_id, number, face_value, currency, state, issued_at, expires_at) \
           SELECT user_id, id, campaign_id, number, 1, 'EUR', 'issued', issued_at, expires_at FROM added",
    )
    .bind(i32::try_from(ROWS).unwrap())
    .execute(&world.pool)
    .await
    .unwrap();
    let read = world.rows_read(&campaign, "user-1", &coupon).await;
    assert!(read < ROWS, "{read} rows were read");
    sqlx::raw_sql(
        "DELETE FROM wallet_changes USING coupons WHERE id = coupon_id AND user_id LIKE 'other-%'; \
         DELETE FROM coupon_changes WHERE order_ref LIKE 'other-%'",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    for table in ["coupons", "wallet"] {
        let delete = format!("DELETE FROM {table} WHERE user_id LIKE 'other-%'");
        sqlx::raw_sql(&delete).execute(&world.pool).await.unwrap();
    }
    world.close().await;
}
