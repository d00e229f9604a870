//! A function of which two programs have two versions.

use outbox_relay::schema::{ApplyError, Function, Lack, Schema};
use sqlx::PgConnection;

use super::{connect, folder, migrations};
use crate::support::World;

/// `lack` and `apply` of a program with this one function and no tables.
struct Version(Schema);

impl Version {
    async fn new(world: &World, revision: i32, text: &'static str) -> Self {
        let functions = Box::leak(Box::new([Function { name: "answer", revision, text }]));
        Self(Schema::new(migrations(&folder(world, "nothing")).await, functions))
    }

    async fn starts(&self, connection: &mut PgConnection) -> bool {
        self.0.lack(connection).await.unwrap() == Lack::default()
    }

    async fn apply(&self, connection: &mut PgConnection) {
        self.0.apply(connection).await.unwrap();
    }
}

async fn answer(connection: &mut PgConnection) -> i32 {
    sqlx::query_scalar("SELECT answer()").fetch_one(connection).await.unwrap()
}

const ONE: &str = "CREATE OR REPLACE FUNCTION answer() RETURNS integer LANGUAGE sql AS 'SELECT 1'";
const TWO: &str = "CREATE OR REPLACE FUNCTION answer() RETURNS integer LANGUAGE sql AS 'SELECT 2'";
const THREE: &str = "CREATE OR REPLACE FUNCTION answer() RETURNS integer LANGUAGE sql AS 'SELECT 3'";

#[tokio::test]
async fn of_two_versions_the_newer_function_stays() {
    let world = World::bare(1).await;
    world.migrate().await;
    let mut connection = connect(&world).await;
    let [first, second, third] = [
        Version::new(&world, 1, ONE).await,
        Version::new(&world, 2, TWO).await,
        Version::new(&world, 3, THREE).await,
    ];
    assert!(!first.starts(&mut connection).await && !second.starts(&mut connection).await);
    // The database never had the first.
    second.apply(&mut connection).await;
    assert!(first.starts(&mut connection).await && second.starts(&mut connection).await);
    first.apply(&mut connection).await;
    assert_eq!(answer(&mut connection).await, 2);
    assert!(!third.starts(&mut connection).await);
    third.apply(&mut connection).await;
    assert!(first.starts(&mut connection).await && third.starts(&mut connection).await);
    first.apply(&mut connection).await;
    second.apply(&mut connection).await;
    assert_eq!(answer(&mut connection).await, 3);
    world.close().await;
}

/// As a text does that is being written.
#[tokio::test]
async fn another_text_of_the_same_revision_is_applied() {
    let world = World::bare(1).await;
    world.migrate().await;
    let mut connection = connect(&world).await;
    Version::new(&world, 1, ONE).await.apply(&mut connection).await;
    let edited = Version::new(&world, 1, TWO).await;
    assert!(!edited.starts(&mut connection).await);
    edited.apply(&mut connection).await;
    assert!(edited.starts(&mut connection).await);
    assert_eq!(answer(&mut connection).await, 2);
    world.close().await;
}

#[tokio::test]
async fn another_signature_needs_another_name() {
    let world = World::bare(1).await;
    world.migrate().await;
    let mut connection = connect(&world).await;
    let first = Version::new(&world, 1, ONE).await;
    first.apply(&mut connection).await;
    let text = "CREATE OR REPLACE FUNCTION answer(n integer) RETURNS integer LANGUAGE sql AS 'SELECT n'";
    let arguments = Version::new(&world, 2, text).await.0.apply(&mut connection).await;
    assert!(matches!(arguments, Err(ApplyError::Signature { name: "answer" })), "{arguments:?}");
    let text = "CREATE OR REPLACE FUNCTION answer() RETURNS text LANGUAGE sql AS 'SELECT $a$2$a$'";
    let result = Version::new(&world, 2, text).await.0.apply(&mut connection).await;
    assert!(matches!(result, Err(ApplyError::Function { name: "answer", .. })), "{result:?}");
    // Nothing of either is there.
    let left = "SELECT (SELECT count(*) FROM pg_proc WHERE proname = 'answer'), \
                       (SELECT revision FROM schema_functions WHERE name = 'answer')";
    let left: (i64, i32) = sqlx::query_as(left).fetch_one(&mut connection).await.unwrap();
    assert_eq!((left, answer(&mut connection).await), ((1, 1), 1));
    world.close().await;
}

#[tokio::test]
async fn a_replaced_function_keeps_its_rights() {
    let world = World::bare(1).await;
    world.migrate().await;
    let mut connection = connect(&world).await;
    Version::new(&world, 1, ONE).await.apply(&mut connection).await;
    let set = "ALTER FUNCTION answer SECURITY DEFINER SET search_path = public, \"An other\", pg_temp; \
               REVOKE ALL ON FUNCTION answer FROM PUBLIC";
    world.execute(set).await;
    let rights = "SELECT prosecdef, proconfig, proacl::text FROM pg_proc WHERE proname = 'answer'";
    let before: (bool, Vec<String>, String) =
        sqlx::query_as(rights).fetch_one(&mut connection).await.unwrap();
    assert!(before.0 && before.1.len() == 1, "{before:?}");
    Version::new(&world, 2, TWO).await.apply(&mut connection).await;
    let after: (bool, Vec<String>, String) = sqlx::query_as(rights).fetch_one(&mut connection).await.unwrap();
    assert_eq!((after, answer(&mut connection).await), (before, 2));
    world.close().await;
}
