//! What Postgres refuses: to change what was told, or to tell anything but through the functions.

use sqlx::{Connection as _, PgConnection};

use super::{ROLES, configured, database_url, granted, migrate_as_owner, with_coupon};
use crate::support::{World, coupon};

/// Each with the roles that may; whoever may not is refused, for want of the right.
const ATTEMPTS: [(&str, &[&str]); 39] = [
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
    ("SELECT code FROM coupons", &["api"]),
    ("SELECT user_id FROM coupons", &["api", "projector", "reader"]),
    ("UPDATE campaigns SET quantity = 1000000", &["api"]),
    ("UPDATE campaigns SET shard = 1", &[]),
    ("UPDATE campaign_changes SET actor = 'mallory'", &[]),
    ("DELETE FROM campaign_changes", &[]),
    ("UPDATE campaigns SET state = 'closed'", &["api"]),
    ("UPDATE wallet SET user_id = 'mallory'", &[]),
    ("DELETE FROM wallet", &[]),
    ("DELETE FROM settlement_entries", &[]),
    ("DELETE FROM projection_positions", &["projector"]),
    ("UPDATE outbox_epochs SET first_position = 1", &[]),
    ("SELECT outbox_drop_partition(5, 1::smallint)", &["relay"]),
    ("UPDATE outbox_replays SET selection = '{}'", &[]),
    ("UPDATE deployment SET shards = 2", &[]),
    ("DELETE FROM schema_functions", &[]),
    (INTO_TOKENS, &[]),
    ("UPDATE api_tokens SET scopes = '{admin}', revoked_at = NULL", &[]),
    ("UPDATE api_tokens SET last_used_at = now()", &["api"]),
    ("DELETE FROM api_tokens", &[]),
    ("SELECT hash FROM api_token_secrets", &["api"]),
    ("UPDATE api_token_secrets SET ends_at = NULL", &[]),
    ("INSERT INTO api_token_secrets SELECT id, '\\x00' FROM campaigns WHERE false", &[]),
    ("CREATE TEMPORARY TABLE campaigns (id uuid)", &[]),
    ("SET ROLE owner", &[]),
];
const INTO_OUTBOX: &str = "INSERT INTO outbox SELECT shard, position + 100, gen_random_uuid(), type, key, \
                           subject, data, traceparent, time FROM outbox";
const INTO_COUPONS: &str = "INSERT INTO coupons SELECT gen_random_uuid(), campaign_id, 'mallory', 1, 2, code, state, \
                            issued_at, expires_at FROM coupons";
const INTO_TOKENS: &str =
    "INSERT INTO api_tokens (id, name, scopes) VALUES (gen_random_uuid(), 'mallory', '{admin}')";
const APPEND: &str = "SELECT outbox_append_2(0::smallint, ARRAY [gen_random_uuid()], '{issued}', '{x}', '{x}', \
                      '{\"{}\"}', '{NULL}', NULL)";

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

/// Tables and functions that no role but the owner has a right to by name, and why.
const OF_THE_OWNER: [(&str, &str); 7] = [
    ("campaign_changes_id_seq", "of an identity: who may insert a row needs no right to it"),
    ("outbox_add_partitions", "creates tables: outbox_append_2() calls it as the owner"),
    ("outbox_check", "outbox_append_2() calls it as the owner"),
    ("outbox_heads", "outbox_append_2() writes it as the owner, and outbox_head() reads it so"),
    ("outbox_lock", "would hold up claims: issue_batch_2() and outbox_append_2() call it as the owner"),
    ("outbox_lock_class", "outbox_lock() calls it as the owner"),
    ("outbox_swap_table", "replaces tables: rebuilds run as the owner"),
];

/// What each role may read of all tables, whatever they are, does not count: a new table has it without a thought.
const BY_NAME: &str = "
    WITH relation AS (
        SELECT oid, relname::text AS name, relacl, relkind = 'S' AS is_sequence FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
          AND NOT relispartition -- has the rights of its table
    ), object AS (
        SELECT name, relacl AS acl, is_sequence FROM relation
        UNION ALL SELECT name, attacl, is_sequence FROM relation JOIN pg_attribute ON attrelid = relation.oid
        UNION ALL SELECT proname, coalesce(proacl, acldefault('f', proowner)), false FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
    )
    SELECT name, bool_or(grantee IS NOT NULL) AS granted, coalesce(bool_or(grantee = 'PUBLIC'), false) AS public
    FROM object LEFT JOIN LATERAL (
        SELECT CASE right_.grantee WHEN 0 THEN 'PUBLIC' ELSE right_.grantee::regrole::text END AS grantee
        FROM aclexplode(acl) AS right_
        WHERE right_.grantee <> 'owner'::regrole
          AND NOT (privilege_type = 'SELECT' AND NOT is_sequence
                   AND right_.grantee IN ('coupon_projector'::regrole, 'coupon_reader'::regrole))
    ) AS granted ON true
    GROUP BY name ORDER BY name";

#[tokio::test]
async fn every_table_and_function_is_granted_or_the_owners_alone() {
    let world = configured(None).await;
    let objects: Vec<(String, bool, bool)> = sqlx::query_as(BY_NAME).fetch_all(&world.pool).await.unwrap();
    let public: Vec<_> = objects.iter().filter(|(_, _, public)| *public).collect();
    assert!(public.is_empty(), "everybody has rights to these: {public:?}");
    let ungranted: Vec<&str> =
        objects.iter().filter(|(_, granted, _)| !granted).map(|(name, ..)| name.as_str()).collect();
    let message = "name what is new in examples/permissions/postgres.sql or in OF_THE_OWNER";
    assert_eq!(ungranted, OF_THE_OWNER.map(|(name, _)| name), "{message}");
    assert!(objects.len() > 20, "{objects:?}");
    world.close().await;
}

/// Of any name, and with the tables in any schema. Before the migration it changes nothing, though roles are the server's.
#[tokio::test]
async fn the_example_works_in_the_database_that_it_is_run_in() {
    let world = World::bare(1).await;
    world.migrate().await;
    let url = world.servers.database_url();
    let shop = format!("{}/shop-1", url.rsplit_once('/').unwrap().0);
    sqlx::raw_sql("CREATE DATABASE \"shop-1\"").execute(&world.pool).await.unwrap();
    let mut database = PgConnection::connect(&shop).await.unwrap();
    sqlx::raw_sql("CREATE SCHEMA \"blue-1\"").execute(&mut database).await.unwrap();
    let schema = ["-v", "schema=blue-1"];

    let refused = granted(&shop, &schema).await;
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'coupon\\_%'";
    let roles: i64 = sqlx::query_scalar(roles).fetch_one(&world.pool).await.unwrap();
    assert_eq!(roles, 0, "{refused:?}");

    let mut environment = world.environment();
    environment.push(("DATABASE_URL", format!("{shop}?options=-c%20search_path%3D%22blue-1%22")));
    let migrated = coupon(&["migrate"], &environment).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let given = granted(&shop, &schema).await;
    assert_eq!(given.status.code(), Some(0), "{given:?}");
    for (right, expected) in [
        ("has_column_privilege('coupon_reader', '\"blue-1\".coupons', 'user_id', 'SELECT')", true),
        ("has_column_privilege('coupon_reader', '\"blue-1\".coupons', 'code', 'SELECT')", false),
        ("has_database_privilege('coupon_reader', 'shop-1', 'CONNECT')", true),
        ("has_database_privilege('coupon_reader', 'shop-1', 'TEMPORARY')", false),
        ("has_database_privilege('coupon_reader', 'coupon', 'TEMPORARY')", true),
        (
            "(SELECT prosecdef AND proconfig = '{\"search_path=\\\"blue-1\\\", pg_temp\"}' FROM pg_proc \
              WHERE proname = 'issue_batch_2')",
            true,
        ),
    ] {
        let has: bool =
            sqlx::query_scalar(&format!("SELECT {right}")).fetch_one(&mut database).await.unwrap();
        assert_eq!(has, expected, "{right}");
    }
    world.close().await;
}

/// Until the example is run again, the older program goes on with the rights that it has.
#[tokio::test]
async fn a_function_that_is_replaced_while_the_api_serves_keeps_its_rights() {
    let (world, campaign) = with_coupon().await;
    sqlx::query("UPDATE schema_functions SET hash = 'another'").execute(&world.pool).await.unwrap();
    migrate_as_owner(&world).await;
    assert_eq!(world.claim(campaign, "bob").await.status, 201);
    world.balanced().await;
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
