//! Changes that wait for somebody else's lock, and clients that hang up in the midst of one.

use coupon_dispatcher::ids::CampaignId;
use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Http, SOON, Socket, TOKEN, World, draft, owns, wait_until};

/// Sessions of the service in some state, at this moment.
async fn sessions(world: &World, condition: &str) -> i64 {
    let count = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'coupon' \
         AND datname = current_database() AND {condition}"
    );
    sqlx::query_scalar(&count).fetch_one(&world.pool).await.unwrap()
}

const WAITS: &str = "wait_event_type = 'Lock'";

async fn waiting(world: &World, at_least: i64) {
    wait_until("changes wait for a lock", SOON, async || sessions(world, WAITS).await >= at_least).await;
}

/// While somebody else has locked rows of campaigns, their changes wait for that; nothing else does.
#[tokio::test]
async fn changes_of_a_locked_campaign_hold_up_nothing_else() {
    let fault = owns("campaigns-locked-under-changes");
    let world = World::start().await;
    let locked = [world.create_campaign(json!({})).await, world.create_campaign(json!({})).await];
    let free = world.create_campaign(json!({})).await;
    let mut lock = world.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM campaigns WHERE id = ANY ($1) FOR UPDATE")
        .bind(locked.map(|id| Uuid::from(id.0)))
        .execute(&mut *lock)
        .await
        .unwrap();
    let open = |api: Http, id: CampaignId| async move {
        api.post(&format!("/v1/campaigns/{id}/open"), &json!(null)).await
    };
    let crowd = (0..60).map(|nth| tokio::spawn(open(world.api(), locked[nth % 2])));
    let crowd: Vec<_> = crowd.collect();
    waiting(&world, 2).await;
    for _ in 0..10 {
        for path in ["/v1/campaigns".to_owned(), format!("/v1/campaigns/{free}")] {
            let answer = world.api().get(&path).await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
        let opened = open(world.api(), free).await;
        assert_eq!(opened.status, 200, "{opened:?}");
    }
    assert!(sessions(&world, WAITS).await <= 2, "of each campaign one change waits in Postgres");
    lock.commit().await.unwrap();
    fault.fired(1);
    let mut opened = 0;
    for answer in join_all(crowd).await {
        let answer = answer.unwrap();
        opened += i32::from(answer.status == 200);
        let refused = (answer.status, answer.header("retry-after")) == (503, Some("1"));
        assert!(answer.status == 200 || refused, "{answer:?}");
    }
    assert!(opened >= 2, "{opened}");
    fault.healed();
    world.close().await;
}

/// A request with a key, as bytes.
fn request(path: &str, key: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nIdempotency-Key: {key}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A change ends without its client: nothing stays open or locked, and the retry with the key gets its answer.
#[tokio::test]
async fn a_client_that_hangs_up_in_the_midst_of_a_change_leaves_nothing_behind() {
    let fault = owns("client-hangs-up-in-a-change");
    let world = World::start().await;
    let address = world.processes[0].address;
    for breaks in [false, true] {
        let (opened, closed) = (world.create_campaign(json!({})).await, world.open_campaign(json!({})).await);
        let name = format!("hung up {breaks}");
        let create = |nth: i32| {
            ("/v1/campaigns".to_owned(), format!("create-{breaks}-{nth}"), draft(json!({ "name": name })))
        };
        let change = |id: CampaignId, what: &str| {
            (format!("/v1/campaigns/{id}/{what}"), format!("{what}-{breaks}"), Value::Null)
        };
        let mut requests = vec![change(opened, "open"), change(closed, "close")];
        requests.extend((0..6).map(create));
        // Each has done its work, and keeps its answer next.
        let mut lock = world.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE idempotency_keys IN SHARE MODE").execute(&mut *lock).await.unwrap();
        let mut clients = Vec::new();
        for (path, key, body) in &requests {
            let mut client = Socket::connect(address).await;
            client.say(request(path, key, body)).await.unwrap();
            clients.push(client);
        }
        waiting(&world, 7).await; // all but the second of two changes of campaigns, which waits for the shard
        for client in clients {
            client.hang_up(breaks);
            fault.fired(1);
        }
        lock.commit().await.unwrap();
        for (path, key, body) in &requests {
            let retried =
                Http::new(address).with("idempotency-key", String::leak(key.clone())).post(path, body).await;
            assert!([200, 201].contains(&retried.status), "{path}: {retried:?}");
            let again =
                Http::new(address).with("idempotency-key", String::leak(key.clone())).post(path, body).await;
            assert_eq!((again.status, &again.body), (retried.status, &retried.body), "{path}");
            assert_eq!(again.header("idempotency-replayed"), Some("true"), "{again:?}");
        }
        let state = |id: CampaignId| {
            let row = "SELECT state, version FROM campaigns WHERE id = $1";
            sqlx::query_as::<_, (String, i32)>(row).bind(Uuid::from(id.0)).fetch_one(&world.pool)
        };
        assert_eq!(state(opened).await.unwrap(), ("open".to_owned(), 2));
        assert_eq!(state(closed).await.unwrap(), ("closed".to_owned(), 3));
        let created = "SELECT count(*) FROM campaigns WHERE name = $1";
        let created: i64 = sqlx::query_scalar(created).bind(&name).fetch_one(&world.pool).await.unwrap();
        assert_eq!(created, 6);
    }
    let open = "state LIKE 'idle in transaction%'";
    let ended = async || sessions(&world, open).await + sessions(&world, WAITS).await == 0;
    wait_until("nothing is open or waits", SOON, ended).await;
    fault.healed();
    world.close().await;
}
