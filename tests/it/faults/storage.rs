//! Postgres runs, and does not do what it is told to: it has lost a session, has no connections or no leave to
//! write, waits for a lock, or keeps a long transaction. For its disk see `disks`.

use std::fs;
use std::time::{Duration, Instant};

use coupon_dispatcher::ids::CampaignId;
use coupon_dispatcher::servers::Setup;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use super::{QUANTITY, someone, survives};
use crate::support::{Answer, Fault, Process, SOON, World, owns, wait_for, wait_until};

/// Longer than a batch waits for an answer, and one behind it.
const REFUSED_WITHIN: Duration = Duration::from_secs(8);
/// Of the writers, one for each process with the API.
const WRITERS: &str = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT claims, verdict%issue_batch%' \
                       AND pid <> pg_backend_pid()";

async fn session(world: &World) -> PgConnection {
    PgConnection::connect(&world.servers.database_url()).await.unwrap()
}

async fn writers(world: &World) -> Vec<i32> {
    sqlx::query_scalar(WRITERS).fetch_all(&world.pool).await.unwrap()
}

/// The refusal of somebody who cannot be written down. In time, and to be asked again.
pub(super) fn is_refused(answer: &Answer) -> bool {
    let refused = (answer.status, answer.problem()) == (503, "storage-unavailable");
    let well = answer.header("retry-after") == Some("1") && answer.took < REFUSED_WITHIN;
    assert!(!refused || well, "{answer:?}");
    refused
}

/// A claim is judged, and until then refused as it ought to be: the status. Prints how long it took.
pub(super) async fn comes_back(world: &World, campaign: CampaignId, user: &str) -> u16 {
    let began = Instant::now();
    let judged = wait_for("claims are judged", SOON, async || {
        let answer = world.claim(campaign, user).await;
        (!is_refused(&answer)).then_some(answer.status)
    });
    let status = judged.await;
    println!("back within {:?}", began.elapsed());
    status
}

/// While `begin` lasts claims are refused; after `end` they are taken again. Then the same in a rush.
async fn refuses_and_comes_back<T>(
    mut world: World,
    fault: &Fault,
    begin: impl AsyncFn(&mut World) -> T,
    end: impl AsyncFn(&mut World, T),
) {
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    let state = begin(&mut world).await;
    for user in ["bob", "carol"] {
        let answer = world.claim(campaign, user).await;
        assert!(is_refused(&answer), "{answer:?}");
    }
    // Surely not committed: back at once, and not when a sweeper has asked.
    world.pending(campaign, 0).await;
    end(&mut world, state).await;
    assert_eq!(comes_back(&world, campaign, "bob").await, 201);
    survives(&mut world, fault, async |world: &mut World, campaign| {
        let state = begin(world).await;
        let refused = async || is_refused(&world.claim(campaign, &someone()).await);
        wait_until("claims are refused", SOON, refused).await;
        end(world, state).await;
    })
    .await;
    world.close().await;
}

#[tokio::test]
async fn writers_whose_sessions_are_ended_in_a_rush_lose_and_double_nothing() {
    let mut world = World::with_processes(&["", "api"]).await;
    survives(&mut world, &owns("postgres-sessions-ended"), async |world: &mut World, campaign| {
        let mut ended = 0;
        for percent in (30..=90).step_by(10) {
            for pid in writers(world).await {
                let end = sqlx::query("SELECT pg_terminate_backend($1)").bind(pid);
                ended += end.execute(&world.pool).await.unwrap().rows_affected();
            }
            world.issued(campaign, QUANTITY * percent / 100).await;
        }
        assert!(ended > 7, "{ended} sessions were ended");
    })
    .await;
    world.close().await;
}

/// Postgres then cuts all sessions and recovers: what shared memory holds may be broken.
#[tokio::test]
async fn a_backend_that_is_killed_in_a_rush_takes_no_promised_coupon_with_it() {
    let mut world = World::with_processes(&["", "api"]).await;
    survives(&mut world, &owns("postgres-backend-killed"), async |world: &mut World, campaign| {
        // The second time as soon as a writer writes again: later the rush may be over.
        for _ in 0..2 {
            let victim = wait_for("a writer", SOON, async || writers(world).await.pop()).await;
            let before = wait_for("a checkpointer", SOON, async || checkpointer(world).await).await;
            assert_eq!(parent_of(victim), world.servers.postgres.pid());
            kill_process(Pid::from_raw(victim).unwrap(), Signal::KILL).unwrap();
            let killed = Instant::now();
            let recovered = async || checkpointer(world).await.is_some_and(|pid| pid != before);
            wait_until("Postgres has recovered", SOON, recovered).await;
            println!("recovered {:?} after the kill", killed.elapsed());
        }
        world.issued(campaign, QUANTITY * 3 / 4).await;
    })
    .await;
    world.close().await;
}

/// Its process, which is another after a recovery; nothing while Postgres does not answer. Asked on a session of its
/// own: the pool would wait for seconds before it connects again.
async fn checkpointer(world: &World) -> Option<i32> {
    let mut session = PgConnection::connect(&world.servers.database_url()).await.ok()?;
    let pid = sqlx::query_scalar("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'");
    pid.fetch_one(&mut session).await.ok()
}

fn parent_of(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

#[tokio::test]
async fn without_connections_to_be_had_claims_are_refused_until_there_are_some() {
    let mut world = World::bare(1).await;
    let few =
        Setup { arguments: ["-c", "max_connections=50"].map(str::to_owned).to_vec(), ..Setup::default() };
    world.servers.postgres.restart_with(few).await.unwrap();
    world.migrate().await;
    for roles in ["", "api"] {
        world.add_process(roles).await;
    }
    let take_all = async |world: &mut World| {
        let mut taken = vec![session(world).await];
        // Frozen, so that they do not come first when their sessions are ended.
        world.processes.iter().for_each(Process::freeze);
        all_are_taken(world, &mut taken).await;
        world.processes.iter().for_each(Process::thaw);
        wait_until("the service has no connection", SOON, async || all_are_taken(world, &mut taken).await)
            .await;
        // Until a writer knows, it is not certain of a batch that it has sent.
        for process in &world.processes {
            let knows = async || process.http().get("/readyz").await.body["postgres"] == "down";
            wait_until("every writer knows", SOON, knows).await;
        }
        taken
    };
    refuses_and_comes_back(world, &owns("postgres-connections-exhausted"), take_all, async |_, taken| {
        drop(taken);
    })
    .await;
}

/// Ends the sessions of the service and takes what can be had: whether there was nothing to end any more.
async fn all_are_taken(world: &World, taken: &mut Vec<PgConnection>) -> bool {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'coupon'";
    let ended = sqlx::query(end).execute(&mut taken[0]).await.unwrap().rows_affected();
    while let Ok(another) = PgConnection::connect(&world.servers.database_url()).await {
        taken.push(another);
    }
    ended == 0
}

#[tokio::test]
async fn while_the_coupons_are_locked_claims_are_refused() {
    let world = World::with_processes(&["", "api"]).await;
    locked_by(world, &owns("coupons-locked"), "LOCK TABLE coupons IN ACCESS EXCLUSIVE MODE").await;
}

#[tokio::test]
async fn while_somebody_keeps_the_lock_of_the_shard_claims_are_refused() {
    let world = World::with_processes(&["", "api"]).await;
    locked_by(world, &owns("shard-locked"), "SELECT outbox_lock(0::smallint)").await;
}

async fn locked_by(world: World, fault: &Fault, lock: &'static str) {
    let lock = async |world: &mut World| {
        let mut holder = session(world).await;
        sqlx::raw_sql("BEGIN").execute(&mut holder).await.unwrap();
        sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
        holder
    };
    refuses_and_comes_back(world, fault, lock, async |_, holder: PgConnection| holder.close().await.unwrap())
        .await;
}

/// As a primary that has become a standby.
#[tokio::test]
async fn while_postgres_takes_no_writes_claims_are_refused_and_readiness_says_so() {
    let world = World::with_processes(&["", "api"]).await;
    let read_only = async |world: &mut World, word: &str| {
        let change = format!("ALTER SYSTEM SET default_transaction_read_only = {word}");
        let mut operator = session(world).await;
        sqlx::raw_sql("SET default_transaction_read_only = off").execute(&mut operator).await.unwrap();
        for statement in [&*change, "SELECT pg_reload_conf()"] {
            sqlx::raw_sql(statement).execute(&mut operator).await.unwrap();
        }
    };
    let begin = async |world: &mut World| {
        read_only(world, "on").await;
        let refused = async || {
            let created = world.api().post("/v1/campaigns", &crate::support::draft(json!({}))).await;
            assert!(created.status == 201 || is_refused(&created), "{created:?}");
            created.status == 503
        };
        wait_until("nothing is written", SOON, refused).await;
        let unready = async || world.api().get("/readyz").await.body["postgres"] == "down";
        wait_until("the process says that Postgres is of no use", SOON, unready).await;
    };
    refuses_and_comes_back(world, &owns("postgres-read-only"), begin, async |world, ()| {
        read_only(world, "off").await;
    })
    .await;
}

/// A default of the database, which sessions take over when they begin: those that have it are replaced.
#[tokio::test]
async fn sessions_that_began_read_only_do_not_outlive_it() {
    let world = World::with_processes(&[""]).await;
    let change = async |word: &str| {
        let mut operator = session(&world).await;
        for set in ["SET default_transaction_read_only = off", &format!("ALTER DATABASE coupon {word}")] {
            sqlx::raw_sql(set).execute(&mut operator).await.unwrap();
        }
    };
    let creates = async |status: u16| {
        let created = world.api().post("/v1/campaigns", &crate::support::draft(json!({}))).await;
        assert!(created.status == 201 || is_refused(&created), "{created:?}");
        created.status == status
    };
    change("SET default_transaction_read_only = on").await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'coupon'";
    sqlx::query(end).execute(&mut session(&world).await).await.unwrap();
    wait_until("nothing is written", SOON, async || creates(503).await).await;
    change("RESET ALL").await;
    wait_until("campaigns are created", SOON, async || creates(201).await).await;
    world.close().await;
}

/// A report that reads for an hour, and a migration that was left open: both hold back vacuum, and
/// `pg_snapshot_xmin`.
#[tokio::test]
async fn transactions_that_stay_open_hold_up_nothing() {
    let mut world = World::with_processes(&["", "api"]).await;
    let (mut report, mut migration) = (session(&world).await, session(&world).await);
    let read =
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM coupons; SELECT count(*) FROM outbox";
    sqlx::raw_sql(read).execute(&mut report).await.unwrap();
    let write = "BEGIN; CREATE TABLE left_open (id int); INSERT INTO left_open VALUES (1)";
    sqlx::raw_sql(write).execute(&mut migration).await.unwrap();
    survives(&mut world, &owns("postgres-long-transactions"), async |world: &mut World, _| {
        // As the last append of a partition does, behind the report's lock on all of them.
        let add = "SET lock_timeout = '1s'; SELECT outbox_add_partitions(1999999)";
        sqlx::raw_sql(add).execute(&mut session(world).await).await.unwrap();
    })
    .await;
    world.balanced().await;
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM coupons").fetch_one(&mut report).await.unwrap();
    assert_eq!(seen, 0, "the report was not open throughout");
    let assigned = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL";
    assert!(sqlx::query_scalar::<_, bool>(assigned).fetch_one(&mut migration).await.unwrap());
    world.close().await;
}
