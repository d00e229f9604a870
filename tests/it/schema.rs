//! The schema: numbered migrations that never change, and functions that are applied when they do.

mod stale;
mod versions;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use coupon_dispatcher::config::FIRST_DEPLOYMENT;
use coupon_dispatcher::schema::{self, SchemaError};
use outbox_relay::deployment::DeploymentName;
use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::{Connection as _, PgConnection};

use crate::support::World;

/// Migrations of released versions, in the order in which they are applied: how the checksum begins that databases
/// have recorded.
const RELEASED: [(&str, &[(&str, &str)]); 2] = [
    (
        "relay/migrations",
        &[
            ("20261101000001_outbox.sql", "0ea154d416d59be8a8e53f7939d7328c"),
            ("20261101000002_epochs.sql", "c750cdafb154981995e8482789d30867"),
            ("20261120000001_replays.sql", "ec3040fb6cb8fd56199070581a77ed98"),
        ],
    ),
    (
        "migrations",
        &[
            ("0001_campaigns.sql", "e6004ccb95c5aa1e3d3b1b89eb16c1bc"),
            ("0002_coupons.sql", "1f021ad36cc17703e5fddc35a447136e"),
            ("0003_issue_batch.sql", "46b60efc2630ef25e7eb07c3c925a238"),
            ("0004_projections.sql", "25a40ed1d681501cb5cb0d13fbb7df82"),
            ("0005_deployment.sql", "293466aba1982306fe19d89afea559b0"),
        ],
    ),
];

/// The texts that each function has had, the newest last: SHA-256, in hex. Its revision is their number.
const HISTORY: [(&str, &[&str]); 14] = [
    ("change_coupons", &["bef95ce59c63a52de33ef65f8b3ca9e2b55a750dd6a22f06c4c9e862ffeb0b98"]),
    ("idempotency_remove_old", &["cb4fe12fa90bc197bc4f2b36eabd27439ad62f8a18770dfc2ad36f7009b637a0"]),
    ("idempotency_slot", &["9cc4e2224e379e0051db646f3c22517ca1679e3648e7862f572346e253c04eac"]),
    (
        "issue_batch",
        &[
            "2608c3261b2d36e54babbeec4389810c962f8ae3a0c6f8f5d4953d11ce201b77",
            "b8b29fc62a5a9204f8fb3964ae94d7b34fe960b14092c30e8f51279ac9822b44",
            "c29d4f94dd84fe7d0a25e741f8530a50bd2e160acc508cc366256b88656c53dc",
            "24c51de5b1e50089a02dd7518a285857262746e5181cd26a1f0b64c31465bfe4",
            "35b8bae785ac30a055610a9c94683979dca79dab8b9fccaa66e976a7b8b3b80b",
        ],
    ),
    (
        "issue_batch_2",
        &[
            "62c38c9f79317a3a8d3c0bdde7e0fb2e732a8743f0df59698372b44773c90365",
            "3dba1ba5296cf8b21534fca164ac7e49c1d01492d223366efe96504c235ef490",
            "e503366d9c070d4ef15e2e6a05984218be735955658d132f71e3a2bfae763c8f",
            "d61848833f48eb44a349c3193842dec1d67ad3a146d00428229dcd3b34198a46",
        ],
    ),
    ("outbox_add_partitions", &["e7ff4e1fd5f14a71a83d5876a3224be77feedd7942c7c53765e44ac59a9f47db"]),
    (
        "outbox_append",
        &[
            "87b88a90f99ae4a3c9e920ff8e9b960027570e9d7075d57811bfa9192cb18db2",
            "7e5f7cd88ba102da191c9fa968fc86837952c271fb0272a3fe67903de00a13c1",
        ],
    ),
    ("outbox_append_2", &["60839de8bfbd54c7d586c9bf78ac3f3ada5a665c595492889052fdf3cf4c605f"]),
    ("outbox_check", &["e3a7adefda0601dd3c93b9218fe3509b1d5ff7c7fd416c45e40725293b13db5c"]),
    ("outbox_drop_partition", &["95e55c9aef490b472ffa12c946488b935793ecb01f63095a60917a10eaab04ae"]),
    ("outbox_head", &["60829dc0497658ae36eb36c7c456724933e6931c07b971473f3be3955499bbeb"]),
    (
        "outbox_lock",
        &[
            "5f5bc073bbef20f907f918d4affcc8f4ea4603234f360b1ad9799e6f5ac437a4",
            "6da3c3b6fe79fab25cb8d2dda5c4778527e4c2c79e6b027dde6c67637b7800fb",
        ],
    ),
    ("outbox_swap_table", &["951544af4a18d098b4d6258678556f6f310686ecb4b292eabebd285e4d20df3b"]),
    ("projection_position", &["903f0a906952f7356fbba88b163c95c4284bdb3a1dc7972e46c7cbb78015592d"]),
];

fn first_deployment() -> DeploymentName {
    FIRST_DEPLOYMENT.parse().unwrap()
}

fn path(inside: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(inside)
}

/// A folder of this world, which goes with it.
fn folder(world: &World, name: &str) -> PathBuf {
    let folder = world.folder().join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn sql_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sql_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "sql") {
            found.push(path);
        }
    }
    found
}

async fn migrations(folder: &Path) -> Migrator {
    let mut migrations = Migrator::new(folder).await.unwrap();
    migrations.set_ignore_missing(true);
    migrations
}

async fn connect(world: &World) -> PgConnection {
    PgConnection::connect(&world.servers.database_url()).await.unwrap()
}

#[tokio::test]
async fn released_migrations_stay_as_they_are() {
    for (folder, files) in RELEASED {
        let migrations = migrations(&path(folder)).await;
        for (file, checksum) in files {
            let version: i64 = file.split_once('_').unwrap().0.parse().unwrap();
            let migration = migrations.iter().find(|migration| migration.version == version).unwrap();
            let now = u128::from_be_bytes(*migration.checksum.first_chunk().unwrap());
            let changed = format!("{folder}/{file} has changed: databases that have it refuse it");
            assert_eq!(format!("{now:032x}"), *checksum, "{changed}");
        }
    }
}

/// What a migration does to tables that the old program still uses, and may not. A line for each.
fn breaches(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
    let statements = code.join(" ").to_uppercase();
    let statements = statements.split(';').map(|statement| statement.split_whitespace().collect::<Vec<_>>());
    let has = |words: &[&str], part: &[&str]| words.windows(part.len()).any(|window| window == part);
    let mut found = Vec::new();
    for words in statements.filter(|words| words.starts_with(&["ALTER", "TABLE"])) {
        let renames = has(&words, &["RENAME"]);
        let changes_a_type = has(&words, &["TYPE"]) && !has(&words, &["ADD"]);
        let needs_a_value =
            has(&words, &["ADD"]) && has(&words, &["NOT", "NULL"]) && !has(&words, &["DEFAULT"]);
        let forbids_null = has(&words, &["SET", "NOT", "NULL"]);
        let checks_rows = has(&words, &["ADD", "CONSTRAINT"])
            && !has(&words, &["NOT", "VALID"])
            && !has(&words, &["USING", "INDEX"]);
        if renames || changes_a_type || needs_a_value || forbids_null || checks_rows {
            found.push(words.join(" "));
        }
    }
    found
}

/// The old program goes on beside each migration: expand, deploy, contract.
#[test]
fn migrations_leave_the_old_program_what_it_uses() {
    for path in [sql_files(&path("migrations")), sql_files(&path("relay/migrations"))].concat() {
        let breaches = breaches(&fs::read_to_string(&path).unwrap());
        assert!(breaches.is_empty(), "{}: {breaches:?}", path.display());
    }
    for breach in [
        "ALTER TABLE coupons RENAME COLUMN code TO number",
        "ALTER TABLE coupons ALTER COLUMN number TYPE bigint",
        "ALTER TABLE coupons ALTER number SET DATA TYPE bigint",
        "ALTER TABLE coupons ADD COLUMN note text NOT NULL",
        "ALTER TABLE coupons ALTER note SET NOT NULL",
        "ALTER TABLE coupons ADD CONSTRAINT positive CHECK (number > 0)",
    ] {
        assert_eq!(breaches(breach).len(), 1, "{breach}");
    }
    let allowed = "ALTER TABLE coupons ADD COLUMN note text NOT NULL DEFAULT ''; -- RENAME
                   ALTER TABLE coupons ADD CONSTRAINT positive CHECK (number > 0) NOT VALID";
    assert!(breaches(allowed).is_empty());
}

/// A file is a function, has its name, and is applied.
#[test]
fn every_function_file_is_applied() {
    let listed: BTreeMap<&str, &str> = [schema::FUNCTIONS, outbox_relay::schema::FUNCTIONS]
        .concat()
        .iter()
        .map(|function| (function.name, function.text))
        .collect();
    let mut found = 0;
    for path in [sql_files(&path("src")), sql_files(&path("relay/src"))].concat() {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert_eq!(listed.get(name), Some(&text.as_str()), "{} is in no list FUNCTIONS", path.display());
        assert!(text.starts_with(&format!("-- {name}: ")), "{} does not say what it does", path.display());
        let heads: Vec<&str> = text.lines().filter(|line| line.starts_with("CREATE ")).collect();
        let head = format!("CREATE OR REPLACE FUNCTION {name}(");
        assert!(heads.len() == 1 && heads[0].starts_with(&head), "{}: {heads:?}", path.display());
        found += 1;
    }
    assert_eq!(found, listed.len());
}

#[tokio::test]
async fn a_changed_function_has_a_new_revision() {
    let world = World::bare(1).await;
    world.migrate().await;
    let applied: Vec<(String, i32, String)> =
        sqlx::query_as("SELECT name, revision, hash FROM schema_functions ORDER BY name")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    let names: Vec<&str> = applied.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, HISTORY.map(|(name, _)| name));
    for ((name, revision, hash), (_, hashes)) in applied.iter().zip(HISTORY) {
        let known = hashes.last() == Some(&hash.as_str());
        assert!(
            known,
            "{name} has changed: raise its revision in FUNCTIONS, and append {hash} to its history"
        );
        assert_eq!(usize::try_from(*revision).unwrap(), hashes.len(), "the revision of {name}");
        assert!(hashes.iter().enumerate().all(|(n, hash)| !hashes[..n].contains(hash)), "{name}");
    }
    world.close().await;
}

/// The version before knew the released migrations alone, and its functions came with them.
#[tokio::test]
async fn a_database_of_the_version_before_is_upgraded_in_place() {
    let mut world = World::bare(1).await;
    let mut connection = connect(&world).await;
    let mut before = Vec::new();
    for (from, files) in RELEASED {
        let folder = folder(&world, &from.replace('/', "-"));
        for (file, _) in files {
            fs::copy(path(from).join(file), folder.join(file)).unwrap();
        }
        before.push(migrations(&folder).await);
    }
    for migrations in &before {
        migrations.run(&mut connection).await.unwrap();
    }
    sqlx::query("INSERT INTO deployment (shards) VALUES (1)").execute(&mut connection).await.unwrap();
    let refusal = schema::check(&mut connection, 1, first_deployment()).await.unwrap_err();
    assert!(matches!(&refusal, SchemaError::Old { missing } if missing.contains("issue_batch")), "{refusal}");

    schema::migrate(&mut connection, 1, first_deployment()).await.unwrap();
    // The version before is migrated and started once more: its migrations are all that it looks at.
    for migrations in &before {
        migrations.run(&mut connection).await.unwrap();
    }
    schema::check(&mut connection, 1, first_deployment()).await.unwrap();
    world.add_process("").await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.close().await;
}

#[tokio::test]
async fn two_migrations_at_once_do_no_harm() {
    let world = World::bare(1).await;
    let (mut one, mut other) = (connect(&world).await, connect(&world).await);
    let (one, other) = tokio::join!(
        schema::migrate(&mut one, 1, first_deployment()),
        schema::migrate(&mut other, 1, first_deployment())
    );
    one.unwrap();
    other.unwrap();
    world.close().await;
}

/// Claims would wait behind a migration that waits for a lock. So it waits for a moment only, and is attempted again.
#[tokio::test]
async fn a_migration_of_a_busy_table_is_attempted_until_it_succeeds() {
    let world = World::bare(1).await;
    world.migrate().await;
    world.execute("DELETE FROM _sqlx_migrations WHERE description = 'request ids'").await;
    world.execute("ALTER TABLE outbox DROP COLUMN request_id").await;
    let mut reader = world.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM outbox").execute(&mut *reader).await.unwrap();
    let mut migrate = world.program("migrate", &[env!("CARGO_BIN_EXE_coupon"), "migrate"]);
    for (name, value) in world.environment() {
        migrate.set(name, &value);
    }
    migrate.launch();
    migrate.told("attempt 2 of 60 follows").await;
    reader.commit().await.unwrap();
    assert_eq!(migrate.ended().await.code(), Some(0), "{}", migrate.log());
    world.execute("SELECT request_id FROM outbox").await;
    world.close().await;
}

/// An index is built without a transaction. What an interrupted build leaves, whole or invalid, is in nobody's way.
#[tokio::test]
async fn an_index_whose_build_was_interrupted_is_built_again() {
    let world = World::bare(1).await;
    world.migrate().await;
    for is_valid in [true, false] {
        let index = "'coupons_idempotency_key'::regclass";
        world.execute("DELETE FROM _sqlx_migrations WHERE version = 12").await;
        world
            .execute(&format!("UPDATE pg_index SET indisvalid = {is_valid} WHERE indexrelid = {index}"))
            .await;
        let migrated = world.coupon(&["migrate"]).await;
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
        let valid = format!("SELECT indisvalid FROM pg_index WHERE indexrelid = {index}");
        assert!(sqlx::query_scalar::<_, bool>(&valid).fetch_one(&world.pool).await.unwrap());
    }
    world.close().await;
}

/// `coupon migrate` alone applies functions: what somebody else has made of one stays.
#[tokio::test]
async fn a_process_that_starts_changes_no_function() {
    let mut world = World::bare(1).await;
    world.migrate().await;
    let mut connection = connect(&world).await;
    let definition = "SELECT pg_get_functiondef('issue_batch'::regproc)";
    let made: String = sqlx::query_scalar(definition).fetch_one(&mut connection).await.unwrap();
    sqlx::raw_sql(&made.replace("BEGIN\n", "BEGIN -- of ours\n")).execute(&mut connection).await.unwrap();
    world.add_process("").await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    let now: String = sqlx::query_scalar(definition).fetch_one(&mut connection).await.unwrap();
    assert!(now != made && now.contains("BEGIN -- of ours\n"), "{now}");
    world.close().await;
}

/// The migrations that the rules give as examples are applied as they stand; the last of them drops `issue_batch`.
#[tokio::test]
async fn the_rules_examples_work_and_a_dropped_function_stays_away() {
    let world = World::bare(1).await;
    world.migrate().await;
    let mut connection = connect(&world).await;
    let rules = fs::read_to_string(path("migrations/README.md")).unwrap();
    let examples: Vec<&str> =
        rules.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(examples.len(), 3);
    let folder = folder(&world, "examples");
    for (n, example) in (1..).zip(&examples) {
        fs::write(folder.join(format!("900{n}_example.sql")), example).unwrap();
    }
    migrations(&folder).await.run(&mut connection).await.unwrap();
    let made = "SELECT (SELECT indisvalid FROM pg_index WHERE indexrelid = 'coupons_by_expiry'::regclass), \
                       EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'campaigns'::regclass AND attname = 'note')";
    let made: (bool, bool) = sqlx::query_as(made).fetch_one(&mut connection).await.unwrap();
    assert_eq!(made, (true, true));

    let checked = schema::check(&mut connection, 1, first_deployment()).await.unwrap_err();
    let migrated = schema::migrate(&mut connection, 1, first_deployment()).await.unwrap_err();
    for refusal in [checked, migrated] {
        assert!(
            matches!(&refusal, SchemaError::Dropped { dropped } if dropped == "issue_batch"),
            "{refusal}"
        );
    }
    let there: bool = sqlx::query_scalar("SELECT to_regproc('issue_batch') IS NOT NULL")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(!there);
    // It is the row alone that keeps it away.
    world.execute("DELETE FROM schema_functions WHERE name = 'issue_batch'").await;
    schema::migrate(&mut connection, 1, first_deployment()).await.unwrap();
    world.close().await;
}
