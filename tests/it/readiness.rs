//! What a process says of itself and of the others: what it cannot know it does not say, and nothing stands still in
//! silence.

use async_nats::jetstream::{self, consumer};
use coupon_dispatcher::event::OUTLET;
use outbox_relay::Shard;
use outbox_relay::standing::Standing;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::{SOON, World, free_port, owns, wait_for, wait_until};

const SHARD: Shard = Shard(0);
const BACKLOG: &str = "outbox_backlog_events{shard=\"0\"}";
const AGE: &str = "outbox_head_of_line_age_seconds{shard=\"0\"}";

impl World {
    /// A sentence that `/readyz` of this process has in `list`, with `words` in it.
    pub(crate) async fn tells(&self, process: usize, list: &str, words: &str) -> String {
        wait_for(&format!("{list}: {words}"), SOON, async || {
            let answer = self.processes[process].http().get("/readyz").await;
            let sentences = answer.body[list].as_array()?.clone();
            sentences
                .iter()
                .filter_map(|said| said.as_str())
                .find(|said| said.contains(words))
                .map(str::to_owned)
        })
        .await
    }

    /// Waits for a process that is not asked for claims, and was started a moment ago.
    async fn has_started(&self, process: usize) {
        let serves = async || {
            let answer = self.processes[process].http().try_get("/metrics").await;
            answer.is_some_and(|answer| answer.status == 200)
        };
        wait_until("it has started", SOON, serves).await;
    }

    async fn is_ready(&self, process: usize) {
        let ready = async || self.processes[process].http().get("/readyz").await.body["status"] == "ready";
        wait_until("it is ready", SOON, ready).await;
    }

    pub(crate) async fn doctor(&self) -> (Option<i32>, String) {
        let examined = self.coupon(&["doctor"]).await;
        (examined.code, examined.out)
    }
}

/// A process with the API alone tells that no relay runs, and so does the doctor.
#[tokio::test]
async fn events_that_nobody_publishes_are_told_by_every_process() {
    let mut world = World::with_processes(&["api"]).await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.measures(0, BACKLOG, 2.0).await;
    let first = world.measured(0, AGE).await.unwrap();
    wait_until("the oldest gets older", SOON, async || world.measured(0, AGE).await.unwrap() > first).await;
    let said = world.tells(0, "stalled", "no relay runs").await;
    assert_eq!(said, "shard 0: no relay runs, so no event is published");
    let (code, out) = world.doctor().await;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("relay of shard 0: none runs."), "{out}");
    world.add_process("relay,project").await;
    world.is_ready(0).await;
    for process in 0..2 {
        world.measures(process, BACKLOG, 0.0).await;
        world.measures(process, AGE, 0.0).await;
    }
    world.balanced().await;
    let (_, out) = world.doctor().await;
    assert!(out.contains("relay of shard 0: active since"), "{out}");
    world.close().await;
}

/// Why a relay has stopped is told by processes without one, and after it was decided by none.
#[tokio::test]
async fn a_halt_is_told_by_every_process() {
    let world = World::with_processes(&["api", "relay,project", "relay"]).await;
    world.append_events(2).await;
    world.balanced().await;
    let context = jetstream::new(world.nats().await);
    let stranger = jetstream::message::PublishMessage::build().message_id("a-stranger");
    context.send_publish("coupons.tested.K.0", stranger).await.unwrap().await.unwrap();
    let said = world.tells(0, "halted", "another client wrote to the stream").await;
    assert!(said.contains("Begin a new epoch"), "{said}");
    assert!(said.ends_with("`coupon relay epoch new --shard 0` begins one"), "{said}");
    world.measures(0, "outbox_relay_halted{shard=\"0\"}", 1.0).await;
    let (code, out) = world.doctor().await;
    assert!(code == Some(1) && out.contains("coupon relay epoch new --shard 0"), "{out}");
    // Both relays have halted in turn, as each gives the lock back.
    for relay in [1, 2] {
        world.processes[relay].told("relay stopped").await;
    }
    world.begin_epoch().await;
    for process in 0..3 {
        world.is_ready(process).await;
        world.measures(process, "outbox_relay_halted{shard=\"0\"}", 0.0).await;
    }
    world.close().await;
}

/// While NATS is frozen nobody is told where the stream ends, and what waits gets older nevertheless.
#[tokio::test]
async fn what_waits_for_a_frozen_nats_is_told_by_every_process() {
    let world = World::with_processes(&["", "relay"]).await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    for process in 0..2 {
        world.has_started(process).await;
        world.measures(process, BACKLOG, 0.0).await;
    }
    world.servers.nats.freeze();
    assert_eq!(world.claim(campaign, "bob").await.status, 201);
    for process in 0..2 {
        // Longer than any sample, leader and connection lasts.
        let old = async || world.measured(process, AGE).await.expect("the age is known") > 12.0;
        wait_until("the oldest gets older", SOON, old).await;
        let backlog = world.measured(process, BACKLOG).await;
        assert!(backlog.is_some_and(|events| events >= 1.0), "{backlog:?}");
    }
    world.servers.nats.thaw();
    for process in 0..2 {
        world.measures(process, BACKLOG, 0.0).await;
        world.is_ready(process).await;
    }
    world.close().await;
}

/// After a start without NATS nobody knows what is published: nothing is said of it.
#[tokio::test]
async fn what_is_not_known_is_not_said() {
    let mut world = World::with_processes(&["relay,project"]).await;
    world.append_events(3).await;
    world.balanced().await;
    world.measures(0, BACKLOG, 0.0).await;
    world.servers.nats.kill().await;
    world.processes[0].kill();
    world.processes[0].start().await;
    world.has_started(0).await;
    world.measures(0, "outbox_sampled", 1.0).await;
    assert_eq!((world.measured(0, BACKLOG).await, world.measured(0, AGE).await), (None, None));
    world.servers.nats.start().await.unwrap();
    world.measures(0, BACKLOG, 0.0).await;

    // The event that has waited longest may be behind events past retention.
    let mut transaction = world.pool.begin().await.unwrap();
    sqlx::query("DELETE FROM outbox WHERE position = 1").execute(&mut *transaction).await.unwrap();
    let standing = &Standing::read(&mut transaction, &OUTLET, &[(SHARD, Some(0))]).await.unwrap()[0];
    assert!(standing.age.unwrap() > 0.0 && standing.backlog() == Some(3), "{standing:?}");
    transaction.rollback().await.unwrap();
    world.close().await;
}

/// Reads succeed, and no commit ends: the standby that it waits for is not there.
#[tokio::test]
async fn a_postgres_whose_commits_do_not_end_makes_the_process_unready() {
    let fault = owns("postgres-commits-wait");
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let standby = async |name: &str| {
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
        sqlx::raw_sql(&set).execute(&world.pool).await.unwrap();
        sqlx::query("SELECT pg_reload_conf()").execute(&world.pool).await.unwrap();
    };
    standby("nobody").await;
    fault.fired(1);
    let unready = async || world.api().get("/readyz").await.body["postgres"] == "down";
    wait_until("the process says that Postgres is of no use", SOON, unready).await;
    let refused = world.claim(campaign, "alice").await;
    assert_eq!((refused.status, refused.problem()), (503, "storage-unavailable"));
    assert_eq!(world.api().get(&format!("/v1/campaigns/{campaign}")).await.status, 200, "reads go on");
    let (code, out) = world.doctor().await;
    assert!(code == Some(1) && out.contains("synchronous_standby_names: nobody"), "{out}");
    standby("").await;
    world.is_ready(0).await;
    wait_until("claims are taken", SOON, async || world.claim(campaign, "bob").await.status != 503).await;
    fault.healed();
    world.balanced().await;
    world.close().await;
}

/// Another program has made a consumer of the projector's name, which pushes.
#[tokio::test]
async fn a_consumer_of_another_shape_is_made_again() {
    let fault = owns("consumer-of-another-shape");
    let mut world = World::with_processes(&["api,relay"]).await;
    world.append_events(3).await;
    let stream = wait_for("there is a stream", SOON, async || {
        jetstream::new(world.nats().await).get_stream("COUPONS-0").await.ok()
    })
    .await;
    let name = || Some("projections".to_owned());
    let pushes = consumer::push::Config {
        durable_name: name(),
        deliver_subject: "somewhere".to_owned(),
        ..Default::default()
    };
    stream.create_consumer(pushes).await.unwrap();
    fault.fired(1);
    world.add_process("project").await;
    world.balanced().await;
    fault.healed();
    world.processes[1].kill();
    stream.delete_consumer("projections").await.unwrap();
    let filtered = consumer::pull::Config {
        durable_name: name(),
        filter_subject: "coupons.nothing.*.0".to_owned(),
        ..Default::default()
    };
    stream.create_consumer(filtered).await.unwrap();
    fault.fired(1);
    world.append_events(3).await;
    world.processes[1].start().await;
    world.balanced().await;
    fault.healed();
    world.close().await;
}

/// It lives, says what is missing, and serves when it is there.
#[tokio::test]
async fn a_process_that_starts_without_postgres_says_so() {
    let fault = owns("postgres-away-at-start");
    let mut world = World::bare(1).await;
    world.migrate().await;
    world.servers.postgres.kill().await;
    fault.fired(1);
    let process = world.process("");
    world.processes.push(process);
    world.processes[0].launch();
    wait_until("it listens", SOON, async || TcpStream::connect(world.processes[0].address).await.is_ok())
        .await;
    let api = world.api();
    assert_eq!(api.get("/livez").await.status, 200);
    let ready = api.get("/readyz").await;
    assert_eq!((ready.status, &ready.body["postgres"]), (503, &json!("down")), "{ready:?}");
    for path in ["/openapi.json", "/asyncapi.json", "/docs", "/problems", "/problems/not-found"] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    for path in ["/v1/campaigns", "/metrics", "/"] {
        let refused = api.get(path).await;
        assert_eq!((refused.status, refused.problem()), (503, "storage-unavailable"), "{path}");
    }
    world.servers.postgres.start().await.unwrap();
    world.is_ready(0).await;
    fault.healed();
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.balanced().await;
    world.close().await;
}

/// Those who only read metrics cannot make a process unready, and monitoring has a door of its own.
#[tokio::test]
async fn strangers_who_read_metrics_do_not_matter() {
    let mut world = World::bare(1).await;
    world.migrate().await;
    let port = free_port();
    let mut process = world.process("");
    process.set("MONITOR_ADDR", &format!("127.0.0.1:{port}"));
    world.processes.push(process);
    world.processes[0].start().await;
    let strangers = (0..500).map(|_| {
        let api = world.api();
        tokio::spawn(async move { api.get("/metrics").await.status })
    });
    let strangers: Vec<_> = strangers.collect();
    let monitor = crate::support::Http::new(([127, 0, 0, 1], port).into());
    for _ in 0..20 {
        assert_eq!(world.api().get("/readyz").await.status, 200);
        for path in ["/livez", "/readyz", "/metrics"] {
            assert_eq!(monitor.get(path).await.status, 200, "{path}");
        }
    }
    assert_eq!(monitor.get("/v1/campaigns").await.status, 404, "the API is not here");
    for stranger in strangers {
        assert_eq!(stranger.await.unwrap(), 200);
    }
    world.close().await;
}
