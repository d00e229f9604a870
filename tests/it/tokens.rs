//! API tokens: created, rotated, revoked and expired under processes that serve.

use std::time::Duration;

use serde_json::{Value, json};

use crate::problems::is_as_ever;
use crate::support::{Clock, Finished, Http, SOON, World, owns, wait_until};

/// Within this time every process knows of a revocation.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);

impl World {
    /// A new token.
    pub(crate) async fn token(&self, options: &[&str]) -> String {
        let made = self.coupon(&[&["token", "create", "--name", "shop"], options].concat()).await;
        assert_eq!(made.code, Some(0), "{made:?}");
        made.out.trim_end().to_owned()
    }

    async fn tokens(&self) -> Vec<Value> {
        let listed = self.coupon(&["token", "list", "--json"]).await;
        assert_eq!(listed.code, Some(0), "{listed:?}");
        let listed: Value = serde_json::from_str(&listed.out).unwrap();
        listed["items"].as_array().unwrap().clone()
    }

    /// The first two processes, for the holder of this token.
    fn apis(&self, token: &str) -> [Http; 2] {
        [0, 1].map(|process| self.processes[process].http().with_token(Some(token)))
    }
}

fn id_of(token: &str) -> &str {
    token.split('_').nth(1).unwrap()
}

async fn status(api: &Http) -> u16 {
    api.get("/v1/campaigns").await.status
}

#[tokio::test]
async fn a_token_works_at_once_everywhere_and_is_refused_everywhere_when_it_is_revoked() {
    let mut world = World::with_processes(&["", "api"]).await;
    let campaign = world.open_campaign(json!({})).await;
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let token = world.token(&["--scope", "issue"]).await;
    for (api, user) in world.apis(&token).iter().zip(["alice", "bob"]) {
        let answer = api.post(&path, &json!({ "user_id": user })).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let answer = api.get("/v1/users/alice/coupons").await;
        assert_eq!((answer.status, answer.problem()), (403, "forbidden"), "{answer:?}");
        is_as_ever("forbidden", &answer);
    }
    let kept = world.token(&["--scope", "issue"]).await;
    let unconfirmed = world.coupon(&["token", "revoke", id_of(&token)]).await;
    assert!(unconfirmed.code == Some(2) && unconfirmed.err.contains("--yes"), "{unconfirmed:?}");
    assert_eq!(status(&world.apis(&token)[0]).await, 200);

    for _ in 0..2 {
        let revoked = world.coupon(&["token", "revoke", id_of(&token), "--yes"]).await;
        assert!(revoked.code == Some(0) && revoked.out.contains("revoked"), "{revoked:?}");
    }
    for api in world.apis(&token) {
        wait_until("the token is refused", KNOWN_WITHIN, async || status(&api).await == 401).await;
    }
    world.servers.postgres.kill().await;
    for (revoked, kept) in world.apis(&token).iter().zip(&world.apis(&kept)) {
        assert_eq!(revoked.post(&path, &json!({ "user_id": "carol" })).await.status, 401);
        let answer = kept.post(&path, &json!({ "user_id": "carol" })).await;
        assert_eq!((answer.status, answer.problem()), (503, "storage-unavailable"), "{answer:?}");
    }
    world.servers.postgres.start().await.unwrap();
    for api in world.apis(&kept) {
        wait_until("the other token works", SOON, async || status(&api).await == 200).await;
    }
    world.close().await;
}

#[tokio::test]
async fn both_secrets_of_a_rotated_token_work_until_the_old_one_ends() {
    let world = World::with_processes(&["", "api"]).await;
    let old = world.token(&["--scope", "read"]).await;
    let rotate = async |keep: &str| world.coupon(&["token", "rotate", id_of(&old), "--keep", keep]).await;
    let rotated = rotate("PT10S").await;
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    let new = rotated.out.trim_end();
    assert!(id_of(new) == id_of(&old) && new != old);
    for token in [&old, new] {
        for api in world.apis(token) {
            assert_eq!(status(&api).await, 200);
        }
    }
    let third = rotate("PT10S").await;
    assert!(third.code == Some(1) && third.err.contains("has two secrets already"), "{third:?}");
    for api in world.apis(&old) {
        wait_until("the old secret has ended", SOON, async || status(&api).await == 401).await;
    }
    assert_eq!(status(&world.apis(new)[0]).await, 200);
    let again = rotate("PT1S").await;
    assert_eq!(again.code, Some(0), "{again:?}");
    let secrets: i64 =
        sqlx::query_scalar("SELECT count(*) FROM api_token_secrets").fetch_one(&world.pool).await.unwrap();
    assert_eq!(secrets, 2, "those that have ended are gone");
    world.close().await;
}

/// A process with a clock of its own.
async fn with_clock() -> (World, Clock) {
    let mut world = World::bare(1).await;
    world.migrate().await;
    let clock = Clock::new(world.folder(), "api");
    let mut process = world.process("");
    for (variable, value) in clock.environment() {
        process.set(variable, &value);
    }
    world.processes.push(process);
    world.processes[0].start().await;
    (world, clock)
}

#[tokio::test]
async fn a_minute_without_postgres_refuses_every_token_but_not_the_admin_token() {
    let fault = owns("tokens-unread");
    let (mut world, clock) = with_clock().await;
    let campaign = world.open_campaign(json!({})).await;
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let admin = world.api();
    let api = admin.with_token(Some(&world.token(&["--scope", "issue"]).await));
    assert_eq!(api.post(&path, &json!({ "user_id": "alice" })).await.status, 201);

    world.servers.postgres.kill().await;
    let answer = api.post(&path, &json!({ "user_id": "bob" })).await;
    assert_eq!((answer.status, answer.problem()), (503, "storage-unavailable"), "{answer:?}");
    clock.pass(time::Duration::seconds(61));
    let answer = api.post(&path, &json!({ "user_id": "bob" })).await;
    assert_eq!((answer.status, answer.problem()), (503, "credentials-unavailable"), "{answer:?}");
    is_as_ever("credentials-unavailable", &answer);
    fault.fired(1);
    assert_eq!(answer.header("retry-after"), Some("1"));
    let answer = admin.get("/v1/campaigns").await;
    assert_eq!((answer.status, answer.problem()), (503, "storage-unavailable"), "{answer:?}");
    world.servers.postgres.start().await.unwrap();
    wait_until("the token works", SOON, async || status(&api).await == 200).await;
    fault.healed();
    world.close().await;
}

/// As after an upgrade without the grants of the new tables.
#[tokio::test]
async fn a_process_tells_that_it_cannot_read_the_tokens() {
    let (world, clock) = with_clock().await;
    let stalled = async || world.api().get("/readyz").await.body["stalled"].to_string();
    world.execute("ALTER TABLE api_tokens RENAME TO away").await;
    clock.pass(time::Duration::seconds(11));
    let told = async || stalled().await.contains("API tokens were last read");
    wait_until("/readyz tells it", SOON, told).await;
    let metrics = world.api().get("/metrics").await.text;
    let age = metrics.lines().find_map(|line| line.strip_prefix("api_tokens_read_age_seconds ")).unwrap();
    assert!(age.parse::<u32>().unwrap() >= 10, "{age}");
    world.processes[0].told("API tokens cannot be read").await;
    world.execute("ALTER TABLE away RENAME TO api_tokens").await;
    wait_until("all is well", SOON, async || !stalled().await.contains("API tokens")).await;
    world.close().await;
}

#[tokio::test]
async fn what_the_database_holds_authenticates_nobody() {
    let world = World::start().await;
    let token = world.token(&["--scope", "admin"]).await;
    assert_eq!(status(&world.api().with_token(Some(&token))).await, 200);
    let (head, secret) = token.rsplit_once('_').unwrap();
    let rows =
        "SELECT string_agg(token::text || secret::text, '') FROM api_tokens token, api_token_secrets secret";
    let rows: String = sqlx::query_scalar(rows).fetch_one(&world.pool).await.unwrap();
    assert!(rows.contains("shop") && !rows.contains(secret), "{rows}");
    let hash = "SELECT encode(hash, 'hex') FROM api_token_secrets";
    let hash: String = sqlx::query_scalar(hash).fetch_one(&world.pool).await.unwrap();
    assert_eq!(status(&world.api().with_token(Some(&format!("{head}_{hash}")))).await, 401);
    world.close().await;
}

#[tokio::test]
async fn tokens_are_listed_with_their_end_and_their_last_use() {
    let world = World::start().await;
    let (used, unused) = (world.token(&["--scope", "read"]).await, world.token(&["--scope", "admin"]).await);
    let short = world.token(&["--scope", "read", "--expires-in", "PT1S"]).await;
    let bound = world.token(&["--scope", "settle,redeem", "--merchant", "shop-7", "--json"]).await;
    let bound: Value = serde_json::from_str(&bound).unwrap();
    assert!(bound["token"].as_str().unwrap().starts_with(&format!("cd_{}_", bound["id"].as_str().unwrap())));
    assert_eq!((&bound["merchant_id"], &bound["scopes"]), (&json!("shop-7"), &json!(["redeem", "settle"])));

    let api = world.api().with_token(Some(&used));
    assert_eq!(status(&api).await, 200);
    let row = async |token: &str| {
        let listed = world.tokens().await;
        listed.into_iter().find(|row| row["id"] == id_of(token)).unwrap()
    };
    wait_until("the use is written", SOON, async || !row(&used).await["last_used_at"].is_null()).await;
    assert!(row(&unused).await["last_used_at"].is_null());
    wait_until("the token has expired", SOON, async || row(&short).await["state"] == "expired").await;
    let api = world.api().with_token(Some(&short));
    wait_until("the expired token is refused", KNOWN_WITHIN, async || status(&api).await == 401).await;
    let listed = world.coupon(&["token", "list"]).await;
    assert_eq!(listed.out.lines().count(), 5, "a header and 4 tokens: {listed:?}");
    assert!(listed.out.lines().last().unwrap().contains("expired"), "{listed:?}");
    assert!(!listed.out.contains(used.rsplit('_').next().unwrap()), "{listed:?}");
    world.close().await;
}

#[tokio::test]
async fn a_token_that_cannot_be_is_not_created() {
    let world = World::bare(1).await;
    world.migrate().await;
    let create = async |options: &[&str]| -> Finished {
        world.coupon(&[&["token", "create"], options].concat()).await
    };
    for (options, problem) in [
        (&["--name", "shop"][..], "--scope"),
        (&["--scope", "read"], "--name"),
        (&["--name", "", "--scope", "read"], "1 to 200 bytes"),
        (&["--name", "a\nb", "--scope", "read"], "control characters"),
        (&["--name", "shop", "--scope", "everything"], "admin, campaign, issue, redeem, read, settle"),
        (&["--name", "shop", "--scope", "read", "--merchant", "shop-7"], "redeem and settle"),
        (&["--name", "shop", "--scope", "read", "--expires-in", "P1M"], "P30D"),
    ] {
        let refused = create(options).await;
        assert!(refused.code == Some(2) && refused.err.contains(problem), "{options:?}: {refused:?}");
    }
    for command in [
        &["token", "revoke", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "--yes"][..],
        &["token", "rotate", "01ARZ3NDEKTSV4RRFFQ69G5FAV"],
    ] {
        let refused = world.coupon(command).await;
        assert!(refused.code == Some(1) && refused.err.contains("there is no token"), "{refused:?}");
    }
    assert_eq!(world.tokens().await.len(), 0);

    world
        .execute(
            "INSERT INTO api_tokens (id, name, scopes) \
             SELECT gen_random_uuid(), 'shop', '{read}' FROM generate_series(1, 9999)",
        )
        .await;
    let last = world.token(&["--scope", "read"]).await;
    let refused = create(&["--name", "shop", "--scope", "read"]).await;
    assert!(refused.code == Some(1) && refused.err.contains("10000 live tokens"), "{refused:?}");
    assert_eq!(world.coupon(&["token", "revoke", id_of(&last), "--yes"]).await.code, Some(0));
    let rotated = world.coupon(&["token", "rotate", id_of(&last)]).await;
    assert!(rotated.code == Some(1) && rotated.err.contains("is revoked"), "{rotated:?}");
    world.token(&["--scope", "read"]).await;
    world.close().await;
}
