//! A run that is cut off, stopped, resumed or cancelled, in the midst of whatever else happens.

use std::time::Duration;

use async_nats::jetstream;
use outbox_relay::Shard;
use outbox_relay::event::StoredEvent;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{STREAM, assert_replayed, replay, sold_out};
use crate::support::{Finished, Running, SOON, World, owns, wait_until};

const AWAY: Duration = Duration::from_secs(20);

impl World {
    /// How many messages of a run are in the stream.
    pub(super) async fn count_replayed(&self, run: &str) -> usize {
        let context = jetstream::new(self.nats().await);
        if context.get_stream(STREAM).await.is_err() {
            return 0;
        }
        self.replayed(run).await.len()
    }

    /// Starts a run at this rate, and waits until it is well under way.
    pub(super) async fn started(&self, run: &str, rate: &str) -> Running {
        let running = self.start_coupon(&["replay", "--json", "--all", "--run", run, "--rate", rate]);
        self.goes_beyond(run, 0).await;
        running
    }

    /// Waits until the stream has twenty messages more of a run than it had.
    pub(super) async fn goes_beyond(&self, run: &str, before: usize) {
        self.goes_to(run, before + 20).await;
    }

    /// Waits until the stream has so many messages of a run.
    async fn goes_to(&self, run: &str, count: usize) {
        let there = async || self.count_replayed(run).await >= count;
        wait_until("the run goes on", SOON, there).await;
    }

    /// Kills the process at work (SIGKILL), and waits until Postgres knows.
    async fn kill(&self, running: Running) {
        running.signal(Signal::KILL);
        assert_eq!(running.finished().await.code, None);
        let free = async || self.try_leader("outbox_replay", Shard(0)).await.is_none();
        wait_until("its place is free", SOON, free).await;
    }

    async fn listed(&self, run: &str) -> Value {
        let finished = self.coupon(&["replay", "--list", "--json"]).await;
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let list: Value = serde_json::from_str(&finished.out).unwrap();
        let runs = list["items"].as_array().unwrap();
        runs.iter().find(|listed| listed["run"] == run).unwrap_or_else(|| panic!("{list}")).clone()
    }

    /// Resumes a run, which is then done.
    pub(super) async fn resume(&self, run: &str) -> Value {
        let finished = self.coupon(&["replay", "--json", "--resume", run, "--rate", "0"]).await;
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let said: Value = serde_json::from_str(&finished.out).unwrap();
        assert_eq!(said["outcome"], "done");
        said
    }

    /// The run has all these events, once and in order.
    pub(super) async fn assert_whole(&self, run: &str, events: &[StoredEvent]) {
        let messages = self.replayed(run).await;
        assert_replayed(run, &messages, &events.iter().collect::<Vec<_>>());
    }
}

fn assert_refused(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    assert!(words.iter().all(|word| finished.err.contains(word)), "{words:?}: {finished:?}");
}

#[tokio::test]
async fn a_run_that_is_killed_again_and_again_is_whole_in_the_end() {
    let (world, _) = sold_out().await;
    let events = world.all_events().await;
    let mut running = world.started("killed", "150").await;
    for _ in 0..3 {
        world.kill(running).await;
        let stored = world.count_replayed("killed").await;
        assert!(stored < events.len(), "it was not cut off");
        assert_eq!(world.listed("killed").await["state"], "interrupted");
        running = world.start_coupon(&["replay", "--resume", "killed"]);
        world.goes_beyond("killed", stored).await;
    }
    world.kill(running).await;
    let stored = world.count_replayed("killed").await;
    let said = world.resume("killed").await;
    // What was still on its way when it was killed may have come since.
    assert!(said["events"].as_u64().unwrap() <= (events.len() - stored) as u64, "{said}");
    assert_eq!(said["stored"], events.len());
    world.assert_whole("killed", &events).await;
    world.close().await;
}

#[tokio::test]
async fn a_run_keeps_its_selection_and_its_bounds() {
    let (world, [first, _]) = sold_out().await;
    let first = first.to_string();
    let all = world.all_events().await;
    let events: Vec<_> = all.iter().filter(|event| event.key == first && event.position <= 200).collect();
    let part = ["replay", "--run", "part", "--campaign", &first, "--to", "200", "--rate", "40"];
    let running = world.start_coupon(&part);
    world.goes_beyond("part", 0).await;
    world.kill(running).await;
    assert_refused(&world.coupon(&["replay", "--all", "--run", "part"]).await, 1, &["part", "running"]);
    for other in [["--campaign", &first], ["--to", "300"], ["--user", "user-1"], ["--run", "other"]] {
        let resumed = world.coupon(&[&["replay", "--resume", "part"], &other[..]].concat()).await;
        assert_refused(&resumed, 2, &["cannot be used with"]);
    }
    assert_refused(&world.coupon(&["replay", "--resume", "unknown"]).await, 1, &["no run unknown"]);

    let open = world.started("open", "100").await;
    world.kill(open).await;
    let campaign = world.open_campaign(json!({})).await;
    world.answered(&world.rush(campaign, 50).run().await).await;
    world.resume("part").await;
    assert_replayed("part", &world.replayed("part").await, &events);
    world.resume("open").await;
    world.assert_whole("open", &all).await;
    assert_refused(&world.coupon(&["replay", "--resume", "part"]).await, 1, &["part", "done"]);
    assert_refused(&world.coupon(&["replay", "--all", "--run", "part"]).await, 1, &["part", "done"]);
    world.close().await;
}

#[tokio::test]
async fn a_plan_is_told_before_anything_is_published() {
    let (world, _) = sold_out().await;
    let mut running = world.start_coupon(&["replay", "--all", "--run", "planned", "--rate", "1"]);
    running.says("in all 605 events").await;
    assert!(world.count_replayed("planned").await < 20, "it was published already");
    world.goes_to("planned", 1).await;
    running.signal(Signal::INT);
    let finished = running.finished().await;
    assert_refused(&finished, 3, &["coupon replay --resume planned"]);
    let said = [
        "run planned: to replay.planned.> in stream COUPONS-REPLAY\n  shard 0: 302 events, positions 1 to 302, ",
        "\n  shard 1: 303 events, positions 1 to 303, ",
        "bytes of data, 00:10:05 at 1 events/s\nstopped: ",
    ];
    assert!(said.iter().all(|part| finished.out.contains(part)), "{finished:?}");
    // A progress bar is for a terminal: here are only lines of the log, and the last word.
    let log = |line: &str| line.contains("INFO") || line.starts_with("coupon: run planned was stopped");
    assert!(finished.err.lines().all(log), "{finished:?}");
    world.close().await;
}

#[tokio::test]
async fn a_run_that_is_stopped_before_it_begins_publishes_nothing() {
    let (world, _) = sold_out().await;
    let mut transaction = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE outbox_replays").execute(&mut *transaction).await.unwrap();
    let running = world.start_coupon(&["replay", "--all"]);
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)";
    let waits = async || sqlx::query_scalar(waits).fetch_one(&world.pool).await.unwrap();
    wait_until("it waits", SOON, waits).await;
    running.signal(Signal::INT);
    let finished = running.finished().await;
    assert_refused(&finished, 3, &["stopped before anything was published"]);
    assert!(finished.out.is_empty(), "{finished:?}");
    drop(transaction);
    world.close().await;
}

#[tokio::test]
async fn a_run_that_is_stopped_says_how_it_goes_on() {
    let (world, _) = sold_out().await;
    let events = world.all_events().await;
    for (run, signal) in [("terminated", Signal::TERM), ("interrupted", Signal::INT)] {
        let running = world.started(run, "100").await;
        running.signal(signal);
        let finished = running.finished().await;
        assert_refused(&finished, 3, &[&format!("coupon replay --resume {run}"), "00:00:07 at 100 events/s"]);
        let said: Value = serde_json::from_str(&finished.out).unwrap();
        // All that was on its way is there: nothing comes after it has said so.
        let stored = world.count_replayed(run).await;
        assert_eq!((&said["outcome"], &said["stored"]), (&json!("stopped"), &json!(stored)));
        let listed = world.listed(run).await;
        assert_eq!((&listed["state"], &listed["stored"]), (&json!("interrupted"), &json!(stored)));
        assert_eq!((&listed["rate"], &listed["events"]), (&json!(100), &json!(events.len())));
        let said = world.resume(run).await;
        assert_eq!(said["events"], events.len() - stored);
        assert_eq!(world.listed(run).await["state"], "done");
        world.assert_whole(run, &events).await;
    }
    world.close().await;
}

#[tokio::test]
async fn a_run_that_is_cancelled_stops_by_itself_and_is_gone() {
    let (world, _) = sold_out().await;
    let events = world.all_events().await;
    replay(&world, "other", &["--all"]).await;
    // So slow that it does not notice by being refused.
    let running = world.started("unwanted", "20").await;
    running.signal(Signal::TERM);
    running.finished().await;
    let running = world.start_coupon(&["replay", "--resume", "unwanted", "--rate", "1"]);
    wait_until("it is at work", SOON, async || world.listed("unwanted").await["state"] == "running").await;
    let cancelled = world.coupon(&["replay", "--cancel", "unwanted", "--yes", "--json"]).await;
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    assert_refused(&running.finished().await, 3, &["unwanted was cancelled"]);

    assert_eq!(world.count_replayed("unwanted").await, 0);
    assert_eq!(world.listed("unwanted").await["state"], "cancelled");
    assert_refused(
        &world.coupon(&["replay", "--resume", "unwanted"]).await,
        1,
        &["unwanted was cancelled", "new run"],
    );
    world.assert_whole("other", &events).await;
    // What is done can be cancelled too, and more than once; and others go on behind it.
    for removed in [events.len(), 0] {
        let cancelled = world.coupon(&["replay", "--cancel", "other", "--yes", "--json"]).await;
        let said: Value = serde_json::from_str(&cancelled.out).unwrap();
        assert_eq!(said, json!({ "run": "other", "state": "cancelled", "removed": removed }));
    }
    assert_refused(&world.coupon(&["replay", "--cancel", "unknown", "--yes"]).await, 1, &["no run unknown"]);
    replay(&world, "next", &["--all"]).await;
    world.assert_whole("next", &events).await;
    world.close().await;
}

#[tokio::test]
async fn a_second_replay_is_refused_while_one_is_at_work() {
    let (world, _) = sold_out().await;
    let events = world.all_events().await;
    let running = world.started("first", "60").await;
    for second in [&["--all", "--run", "second"][..], &["--resume", "first"]] {
        let refused = world.coupon(&[&["replay"], second].concat()).await;
        assert_refused(&refused, 4, &["run first is at work"]);
    }
    assert_eq!(world.coupon(&["replay", "--run", "second", "--dry-run"]).await.code, Some(0));
    world.kill(running).await;
    replay(&world, "second", &["--all"]).await;
    world.resume("first").await;
    world.assert_whole("first", &events).await;
    world.assert_whole("second", &events).await;
    world.close().await;
}

#[tokio::test]
async fn a_rate_is_kept() {
    let (world, _) = sold_out().await;
    let begun = Instant::now();
    let said = replay(&world, "slow", &["--rate", "40", "--to", "21"]).await;
    assert_eq!((&said["events"], &said["duration_s"]), (&json!(42), &json!(2)));
    // However slow this machine is, it may not be faster.
    assert!(begun.elapsed().as_secs_f64() > 41.0 / 40.0 - 0.05, "{:?}", begun.elapsed());
    world.close().await;
}

#[tokio::test]
async fn a_replay_during_a_rush_is_exact_and_so_is_all_else() {
    let (mut world, _) = sold_out().await;
    world.add_process("relay,project").await;
    let campaign = world.open_campaign(json!({ "quantity": 2_000 })).await;
    let mut rush = world.rush(campaign, 2_500);
    rush.rate = 1_500;
    let replays = async {
        world.issued(campaign, 100).await;
        replay(&world, "during", &["--all"]).await;
        assert!(world.coupons(campaign).await < 2_000, "the rush was over too soon");
    };
    let (results, ()) = tokio::join!(rush.run(), replays);
    world.answered(&results).await;
    let lasts: Vec<i64> =
        sqlx::query_scalar("SELECT unnest(lasts) FROM outbox_replays").fetch_all(&world.pool).await.unwrap();
    let mut events = world.all_events().await;
    events.retain(|event| event.position <= lasts[event.shard.0.unsigned_abs() as usize]);
    assert!(events.iter().filter(|event| event.key == campaign.to_string()).count() > 100);
    world.assert_whole("during", &events).await;
    world.assert_published().await;
    world.close().await;
}

#[tokio::test]
async fn an_interruption_of_nats_is_waited_out() {
    let fault = owns("replay-without-nats");
    let (mut world, _) = sold_out().await;
    let events = world.all_events().await;
    let running = world.started("through", "150").await;
    for _ in 0..2 {
        world.servers.nats.kill().await;
        fault.fired(1);
        world.servers.nats.start().await.unwrap();
        let stored = world.count_replayed("through").await;
        assert!(stored < events.len(), "it was over too soon");
        world.goes_beyond("through", stored).await;
    }
    let finished = running.finished().await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    world.assert_whole("through", &events).await;
    fault.healed();
    world.close().await;
}

/// For longer than Postgres keeps a session that says nothing.
#[tokio::test]
async fn a_long_absence_of_nats_is_waited_out() {
    let fault = owns("replay-without-nats");
    let (mut world, _) = sold_out().await;
    let events = world.all_events().await;
    let running = world.started("through", "150").await;
    world.servers.nats.kill().await;
    fault.fired(1);
    let begun = Instant::now();
    wait_until("NATS is away for long", 2 * AWAY, async || begun.elapsed() > AWAY).await;
    world.servers.nats.start().await.unwrap();
    let finished = running.finished().await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    world.assert_whole("through", &events).await;
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_run_whose_events_are_gone_does_not_skip_them() {
    let (world, _) = sold_out().await;
    let events = world.all_events().await;
    let running = world.started("short", "50").await;
    running.signal(Signal::TERM);
    running.finished().await;
    let change = async |statements: &str| {
        sqlx::raw_sql(statements).execute(&world.pool).await.unwrap();
    };
    change("CREATE TABLE kept AS SELECT * FROM outbox WHERE shard = 1 AND position <= 40").await;
    change("DELETE FROM outbox WHERE shard = 1 AND position <= 40").await;
    let resumed = world.coupon(&["replay", "--resume", "short", "--rate", "0"]).await;
    assert_refused(&resumed, 1, &["positions 1 to 40 of shard 1 are gone", "--resume short"]);
    let of_first = world.outbox(Shard(0)).await;
    world.assert_whole("short", &of_first).await;
    change("INSERT INTO outbox SELECT * FROM kept; DROP TABLE kept").await;
    world.resume("short").await;
    world.assert_whole("short", &events).await;
    world.close().await;
}

#[tokio::test]
async fn a_run_that_nobody_can_tell_about_is_not_resumed() {
    let (world, _) = sold_out().await;
    let running = world.started("old", "50").await;
    running.signal(Signal::TERM);
    running.finished().await;
    let age = "UPDATE outbox_replays SET started_at = now() - interval '8 days'";
    sqlx::query(age).execute(&world.pool).await.unwrap();
    let running = world.start_coupon(&["replay", "--resume", "old"]);
    let stored = world.count_replayed("old").await;
    world.goes_beyond("old", stored).await; // its last message is there
    running.signal(Signal::TERM);
    running.finished().await;
    let context = jetstream::new(world.nats().await);
    context.get_stream(STREAM).await.unwrap().purge().filter("replay.old.>").await.unwrap();
    let resumed = world.coupon(&["replay", "--resume", "old"]).await;
    assert_refused(&resumed, 1, &["older than what stream COUPONS-REPLAY keeps"]);
    world.close().await;
}
