//! Least privilege: the examples in `examples/permissions` are enough for the service, and for nothing else.

mod logins;
mod nats;
mod operator;
mod postgres;
mod redis;
mod service;

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use coupon_dispatcher::ids::CampaignId;
use coupon_dispatcher::servers::Setup;
use serde_json::json;
use tokio::process::Command;

use crate::support::{World, coupon};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/permissions");
const ADMINISTRATOR: &str = "administrator";
const NOBODY: &str = "nobody";
/// Roles of Postgres, and their users.
const ROLES: [&str; 5] = ["api", "relay", "projector", "replay", "reader"];

/// Servers with these configurations, another program of NATS perhaps, and a schema. The world itself is the
/// administrator of all three.
async fn configured(nats: Option<PathBuf>) -> World {
    let mut world = World::bare(1).await;
    let setup = |program, arguments: [String; 2]| Setup {
        program,
        arguments: arguments.into(),
        login: Some((ADMINISTRATOR.to_owned(), password(ADMINISTRATOR))),
    };
    let config = setup(nats, ["-c".to_owned(), format!("{FOLDER}/nats.conf")]);
    world.servers.nats.restart_with(config).await.unwrap();
    let config = setup(None, ["--include".to_owned(), format!("{FOLDER}/redis.acl")]);
    world.servers.redis.restart_with(config).await.unwrap();
    configure_postgres(&mut world).await;
    world
}

/// The service, each role in a process with its own users, and a campaign of which alice has a coupon.
async fn with_coupon() -> (World, CampaignId) {
    let mut world = configured(None).await;
    add_process(&mut world, "api", "api", "api", "api").await;
    add_process(&mut world, "relay", "relay", "relay", NOBODY).await;
    add_process(&mut world, "project", "projector", "projector", "auditor").await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.balanced().await;
    (world, campaign)
}

/// A schema that belongs to somebody who is no superuser, and passwords that count.
async fn configure_postgres(world: &mut World) {
    let access = world.servers.postgres.dir().join("pg_hba.conf");
    let lines = fs::read_to_string(&access).unwrap();
    let roles = ROLES.map(|role| format!("coupon_{role}")).join(",");
    fs::write(&access, format!("host all {roles} 127.0.0.1/32 scram-sha-256\n{lines}")).unwrap();
    world.servers.postgres.stop().await;
    world.servers.postgres.start().await.unwrap();
    let owner = "CREATE ROLE owner LOGIN; ALTER DATABASE coupon OWNER TO owner";
    sqlx::raw_sql(owner).execute(&world.pool).await.unwrap();
    migrate_as_owner(world).await;
    // Twice, as after a later migration.
    for _ in 0..2 {
        let granted = granted(&world.servers.database_url(), &[]).await;
        assert_eq!(granted.status.code(), Some(0), "{granted:?}");
    }
}

/// Runs the example with `psql` in the database of this URL.
async fn granted(database_url: &str, options: &[&str]) -> Output {
    let file = format!("{FOLDER}/postgres.sql");
    let command =
        Command::new("psql").args(["-X", "-q", "-f", &file]).args(options).arg(database_url).output();
    command.await.unwrap()
}

async fn migrate_as_owner(world: &World) {
    let mut environment = world.environment();
    environment.push(("DATABASE_URL", world.servers.database_url().replace("coupon@", "owner@")));
    let migrated = coupon(&["migrate"], &environment).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
}

fn password(user: &str) -> String {
    format!("{user}-password")
}

fn database_url(world: &World, role: &str) -> String {
    let login = format!("coupon_{role}:{}@", password(role));
    world.servers.database_url().replace("coupon@", &login)
}

/// Of the server with this URL for the administrator.
fn url_of(user: &str, url: &str) -> String {
    url.replace(ADMINISTRATOR, user)
}

/// Adds a process with these roles, each server's user named; of Redis perhaps [`NOBODY`].
async fn add_process(world: &mut World, roles: &str, postgres: &str, nats: &str, redis: &str) {
    let mut process = world.process(roles);
    process.set("DATABASE_URL", &database_url(world, postgres));
    process.set("NATS_URL", &url_of(nats, &world.servers.nats_url()));
    // A process that has nothing to do with Redis needs no variable for it.
    let url = if redis == NOBODY { String::new() } else { url_of(redis, &world.servers.redis_url()) };
    process.set("REDIS_URL", &url);
    process.start().await;
    world.processes.push(process);
}
