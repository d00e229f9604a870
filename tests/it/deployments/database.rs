//! In one database, with a schema each; and a database that is a copy of another one.

use coupon_dispatcher::connections::nats_options;
use outbox_relay::stream;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::{BLUE, SHARD, STREAM, everything, said};
use crate::support::{
    Http, Process, SOON, World, coupon, draft, free_port, newest_nats_server, owns, wait_until,
};

impl World {
    /// What processes are told to work in another schema of this database.
    fn in_schema(&self, schema: &str, deployment: &str) -> Vec<(&'static str, String)> {
        let database = format!("{}?options=-c%20search_path%3D{schema}", self.servers.database_url());
        let mut environment = self.environment();
        environment.extend([("DATABASE_URL", database), ("DEPLOYMENT", deployment.to_owned())]);
        environment
    }

    /// Another server of NATS, and its URL.
    async fn second_nats(&self) -> (Process, String) {
        let port = free_port().to_string();
        let (program, dir) = (newest_nats_server(), self.folder().join("nats-blue"));
        let [program, dir] = [&program, &dir].map(|path| path.to_str().unwrap());
        let mut nats =
            self.program("nats-blue", &[program, "-a", "127.0.0.1", "-p", &port, "-js", "-sd", dir]);
        nats.launch();
        let url = format!("nats://127.0.0.1:{port}");
        wait_until("it serves", SOON, async || nats_options(&url).connect(&url).await.is_ok()).await;
        (nats, url)
    }
}

/// A campaign of this API that takes claims.
async fn opened(api: &Http) -> String {
    let created = api.post("/v1/campaigns", &draft(json!({}))).await;
    let campaign = created.body["id"].as_str().unwrap().to_owned();
    assert_eq!(api.post(&format!("/v1/campaigns/{campaign}/open"), &Value::Null).await.status, 200);
    campaign
}

async fn claim(api: &Http, campaign: &str, user: &str) -> u16 {
    api.post(&format!("/v1/campaigns/{campaign}/coupons"), &json!({ "user_id": user })).await.status
}

#[tokio::test]
async fn two_in_one_database_work_side_by_side() {
    let fault = owns("two-deployments-in-one-database");
    let world = World::with_processes(&[""]).await;
    world.execute("CREATE SCHEMA blue").await;
    world.execute("CREATE SCHEMA green").await;
    let taken = coupon(&["migrate"], &world.in_schema("green", "coupon")).await;
    said(&taken, 1, &["schema public of this database has a deployment coupon too", "set DEPLOYMENT"]);
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'green'::regnamespace";
    let tables: i64 = sqlx::query_scalar(tables).fetch_one(&world.pool).await.unwrap();
    assert_eq!(tables, 0, "nothing is half migrated");

    let (_nats, url) = world.second_nats().await;
    let mut environment = world.in_schema("blue", BLUE);
    environment.push(("NATS_URL", url.clone()));
    said(&coupon(&["migrate"], &environment).await, 0, &[]);
    let mut process = world.process("");
    for (name, value) in &environment {
        process.set(name, value);
    }
    process.start().await;
    fault.fired(1);
    for class in ["outbox_relay", "projector_projections"] {
        let [one, other] = [class.to_owned(), format!("{class}@blue")];
        assert_ne!(world.leader(&one, SHARD).await, world.leader(&other, SHARD).await, "both lead");
    }
    world.leader("auditor@blue", SHARD).await;

    // Neither waits for a lock of the other.
    let api = process.http();
    let (ours, theirs) = (world.open_campaign(json!({})).await, opened(&api).await);
    let mut session = PgConnection::connect(&environment_value(&environment, "DATABASE_URL")).await.unwrap();
    let mut transaction = session.begin().await.unwrap();
    sqlx::query("SELECT outbox_lock(0::smallint)").execute(&mut *transaction).await.unwrap();
    assert_eq!(world.claim(ours, "alice").await.status, 201);
    transaction.rollback().await.unwrap();
    assert_eq!(claim(&api, &theirs, "alice").await, 201);
    world.assert_published().await;

    let nats = nats_options(&url).connect(&url).await.unwrap();
    let head: i64 =
        sqlx::query_scalar("SELECT outbox_head(0::smallint)").fetch_one(&mut session).await.unwrap();
    wait_until("the other publishes to its own NATS", SOON, async || {
        stream::end(&nats, STREAM).await.unwrap() == head.unsigned_abs()
    })
    .await;
    assert!(everything(&nats).await.contains_key("COUPONS-0 projections-blue"));
    said(&coupon(&["rebuild", "wallet"], &environment).await, 0, &[]);
    said(&coupon(&["audit", "--full"], &environment).await, 0, &[]);
    fault.healed();
    world.close().await;
}

fn environment_value(environment: &[(&'static str, String)], name: &str) -> String {
    environment.iter().rfind(|(known, _)| *known == name).unwrap().1.clone()
}

/// With a login that owns its schema, and nothing else. Each refusal says what to do, and that is enough.
#[tokio::test]
async fn a_second_team_is_told_what_its_login_needs() {
    let world = World::bare(1).await;
    world.migrate().await;
    for team in ["red", "blue"] {
        world.execute(&format!("CREATE ROLE {team} LOGIN")).await;
    }
    let environment = |team: &'static str| {
        let mut environment = world.in_schema(team, team);
        let database = environment_value(&environment, "DATABASE_URL");
        environment.push(("DATABASE_URL", database.replace("coupon@", &format!("{team}@"))));
        environment
    };
    let (red, blue) = (environment("red"), environment("blue"));
    let create = "CREATE SCHEMA red AUTHORIZATION red";
    said(&coupon(&["migrate"], &red).await, 1, &["no schema red", create, "`coupon migrate` again"]);
    world.execute(create).await;
    said(&coupon(&["migrate"], &red).await, 1, &["grant this login USAGE on schema public"]);
    world.execute("GRANT SELECT ON deployment TO red, blue").await; // USAGE on public is everybody's
    said(&coupon(&["migrate"], &red).await, 0, &[]);

    // From then on each is refused until it may read the name of the other.
    world.execute("CREATE SCHEMA blue AUTHORIZATION blue").await;
    let of_schema =
        |team: &str| format!("grant this login USAGE on schema {team}, and SELECT on its table deployment");
    said(&coupon(&["migrate"], &blue).await, 1, &[&of_schema("red")]);
    world.execute("GRANT USAGE ON SCHEMA red TO blue").await;
    world.execute("GRANT SELECT ON red.deployment TO blue").await;
    said(&coupon(&["migrate"], &blue).await, 0, &[]);
    said(&coupon(&["migrate"], &red).await, 1, &[&of_schema("blue")]);
    world.execute("GRANT USAGE ON SCHEMA blue TO red").await;
    world.execute("GRANT SELECT ON blue.deployment TO red").await;
    said(&coupon(&["migrate"], &red).await, 0, &[]);

    let grant = "GRANT CREATE ON DATABASE coupon TO red";
    said(&coupon(&["rebuild", "wallet"], &red).await, 1, &[grant]);
    world.execute(grant).await;
    let rebuilt = coupon(&["rebuild", "wallet"], &red).await;
    assert!(rebuilt.out.contains("rebuilt wallet from 0 events"), "{rebuilt:?}");
    world.close().await;
}

/// A copy of the database of another deployment, also of one that is older than names, is refused until it has a name
/// and an id of its own.
#[tokio::test]
async fn a_copy_of_a_database_is_refused_until_it_is_renamed() {
    let fault = owns("database-of-another-deployment");
    let world = World::with_processes(&[""]).await;
    world.append_events(2).await;
    world.balanced().await;
    let address = ("HTTP_ADDR", "127.0.0.1:0".to_owned());
    let staging = [("DEPLOYMENT", "staging".to_owned()), address.clone()];
    let words = [
        "the database belongs to deployment coupon, and DEPLOYMENT says staging",
        "UPDATE deployment SET name = 'staging', id = gen_random_uuid()",
    ];
    for (command, code) in [
        (&["migrate"][..], 1),
        (&["serve"], 1),
        (&["audit"], 2),
        (&["replay", "--all"], 1),
        (&["dead", "list"], 1),
    ] {
        said(&world.coupon_with(command, &staging).await, code, &words);
        fault.fired(1);
    }
    let examined = world.coupon_with(&["doctor"], &staging).await;
    assert_eq!(examined.code, Some(1), "{examined:?}");
    assert!(examined.out.contains("schema: of another deployment"), "{examined:?}");

    // As the version before has it.
    world.execute("ALTER TABLE deployment RENAME COLUMN name TO kept").await;
    world.execute("UPDATE schema_functions SET revision = 1, hash = 'old' WHERE name = 'outbox_lock'").await;
    said(&world.coupon_with(&["migrate"], &staging).await, 1, &words);
    let applied = "SELECT revision FROM schema_functions WHERE name = 'outbox_lock'";
    let applied: i32 = sqlx::query_scalar(applied).fetch_one(&world.pool).await.unwrap();
    assert_eq!(applied, 1, "nothing is migrated");
    world.execute("ALTER TABLE deployment RENAME COLUMN kept TO name").await;

    let class = "SELECT outbox_lock_class() = hashtext($1)";
    let class = async |class_of: &str| -> bool {
        sqlx::query_scalar(class).bind(class_of).fetch_one(&world.pool).await.unwrap()
    };
    assert!(class("outbox_append").await, "as in the version before");
    let (_, id) = world.owner().await;
    world.execute(words[1]).await;
    said(&world.coupon_with(&["migrate"], &staging).await, 0, &[]);
    let renamed = world.owner().await;
    assert!(renamed.0 == "staging" && renamed.1 != id, "{renamed:?}");
    assert!(class("outbox_append@staging").await);
    said(&world.coupon_with(&["dead", "list"], &staging).await, 0, &[]);
    said(
        &world.coupon_with(&["serve"], &[address]).await,
        1,
        &["belongs to deployment staging, and DEPLOYMENT says coupon"],
    );

    sqlx::query("UPDATE deployment SET name = 'coupon', id = $1::uuid")
        .bind(id)
        .execute(&world.pool)
        .await
        .unwrap();
    said(&world.coupon(&["migrate"]).await, 0, &[]);
    fault.healed();
    world.close().await;
}
