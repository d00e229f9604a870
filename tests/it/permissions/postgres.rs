//! What Postgres refuses: to change what was told, or to tell anything but through the functions.

use sqlx::{Connection as _, PgConnection};

use super::{ROLES, configured, database_url, with_coupon};

/// Each with the roles that may; whoever may not is refused, for want of the right.
const ATTEMPTS: [(&str, &[&str]); 27] = [
    ("UPDATE outbox SET data = '{}'", &[]),
    ("UPDATE outbox_0 SET data = '{}'", &[]),
    ("DELETE FROM outbox", &[]),
    ("DELETE FROM outbox_0", &[]),
    ("TRUNCATE outbox", &[]),
    (INTO_OUTBOX, &[]),
    ("ALTER TABLE outbox DROP CONSTRAINT outbox_pkey", &[]),
    ("SELECT outbox_add_partitions(5000000)", &[]),
    ("SELECT outbox_lock(0::smallint)", &[]),
    (APPEND, &["api"]),
    ("SELECT data FROM outbox", &["relay", "projector", "replay", "reader"]),
    ("UPDATE coupons SET user_id = 'mallory'", &[]),
    ("DELETE FROM coupons", &[]),
    (INTO_COUPONS, &[]),
    ("SELECT code FROM coupons", &["api", "projector", "reader"]),
    ("UPDATE campaigns SET quantity = 1000000", &[]),
    ("UPDATE campaigns SET state = 'closed'", &["api"]),
    ("UPDATE wallet SET user_id = 'mallory'", &[]),
    ("DELETE FROM wallet", &[]),
    ("DELETE FROM settlement_entries", &[]),
    ("DELETE FROM projection_positions", &["projector"]),
    ("UPDATE outbox_epochs SET first_position = 1", &[]),
    ("SELECT outbox_drop_partition(5, 1::smallint)", &["relay"]),
    ("UPDATE outbox_replays SET selection = '{}'", &[]),
    ("UPDATE deployment SET shards = 2", &[]),
    ("CREATE TEMPORARY TABLE campaigns (id uuid)", &[]),
    ("SET ROLE owner", &[]),
];
const INTO_OUTBOX: &str = "INSERT INTO outbox SELECT shard, position + 100, gen_random_uuid(), type, key, \
                           subject, data, traceparent, time FROM outbox";
const INTO_COUPONS: &str = "INSERT INTO coupons SELECT gen_random_uuid(), campaign_id, 'mallory', 1, 2, code, state, \
                            issued_at, expires_at FROM coupons";
const APPEND: &str = "SELECT outbox_append(0::smallint, ARRAY [gen_random_uuid()], '{issued}', '{x}', '{x}', \
                      '{\"{}\"}', '{NULL}')";

#[tokio::test]
async fn nobody_but_the_owner_changes_the_outbox() {
    let (world, _) = with_coupon().await;
    for role in ROLES {
        let mut connection = PgConnection::connect(&database_url(&world, role)).await.unwrap();
        for (statement, may) in ATTEMPTS {
            let refusal = attempt(&mut connection, statement).await;
            let expected = (!may.contains(&role)).then_some("42501");
            assert_eq!(refusal.as_deref(), expected, "{role}: {statement}");
        }
    }
    let mut connection = PgConnection::connect(&world.servers.database_url()).await.unwrap();
    for (statement, _) in ATTEMPTS {
        assert_eq!(attempt(&mut connection, statement).await, None, "{statement}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_role_is_nobody_without_its_password() {
    let world = configured(None).await;
    for role in ROLES {
        let url = database_url(&world, role);
        PgConnection::connect(&url).await.unwrap();
        let error = PgConnection::connect(&url.replace("-password", "")).await.unwrap_err();
        assert_eq!(code(&error).as_deref(), Some("28P01"), "{error}");
    }
    world.close().await;
}

/// The code of the refusal, if there is one. What is granted is rolled back.
async fn attempt(connection: &mut PgConnection, statement: &'static str) -> Option<String> {
    let mut transaction = connection.begin().await.unwrap();
    let result = sqlx::query(statement).execute(&mut *transaction).await;
    transaction.rollback().await.unwrap();
    result.err().map(|error| code(&error).unwrap_or_else(|| error.to_string()))
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}
