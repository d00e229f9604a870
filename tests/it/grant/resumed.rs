//! A grant that is killed, stopped, or run a second time: each line gets one coupon.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::{Grants, summary, users};
use crate::support::{Line, Proxy, SOON, World, wait_until};

/// Lines of a grant that is killed several times on its way.
const LINES: u64 = 1_500;

impl Grants<'_> {
    /// Waits until this number of lines has a result.
    pub(super) async fn goes_to(&self, lines: usize) {
        wait_until("the grant goes on", SOON, async || self.text().lines().count() > lines).await;
    }

    /// Every line was issued a coupon of its own, in order, and nobody has another one.
    async fn assert_whole(&self) {
        let rows = self.rows();
        for (row, line) in rows.iter().zip(2..) {
            let expected = (line, format!("user-{}", line - 2), "issued");
            assert_eq!((row.line, row.user.clone(), &*row.outcome), expected, "{row:?}");
        }
        let coupons: BTreeSet<_> = rows.iter().map(|row| &row.coupon).collect();
        assert_eq!((rows.len() as u64, coupons.len() as u64), (LINES, LINES));
        assert_eq!(self.world.coupons(self.campaign).await.unsigned_abs(), LINES);
    }
}

/// A user may have three coupons, so a line that is claimed twice would give a second one.
#[tokio::test]
async fn a_grant_that_is_killed_again_and_again_gives_each_line_one_coupon() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "per_user_limit": 3, "quantity": 10_000 })).await;
    let grants = Grants::of(&world, campaign, "users.csv", users(LINES));
    let wire = Proxy::to(world.processes[0].address).await;
    wire.set(Line::Slow(Duration::from_millis(40)));
    let url = format!("http://{}", wire.address);
    let slow = ["--concurrency", "16", "--url", &url];
    let mut running = grants.start(&slow);
    for kills in 1..=4 {
        grants.goes_to(kills * 150).await;
        running.signal(Signal::STOP);
        let busy = grants.run(&["--resume"]).await;
        assert!(busy.code == Some(2) && busy.err.contains("another grant is writing"), "{busy:?}");
        running.signal(Signal::KILL);
        assert_eq!(running.finished().await.code, None, "it was done before it was killed");
        // As if it had been killed in the midst of a line, a moment before.
        let text = fs::read_to_string(&grants.results).unwrap();
        let kept = text.len() - 20 * kills;
        OpenOptions::new().write(true).open(&grants.results).unwrap().set_len(kept as u64).unwrap();
        let before = grants.rows();
        assert!((before.len() as u64) < LINES);
        running = grants.start(&[&slow[..], &["--resume"]].concat());
        grants.goes_to(before.len() + 20).await;
        assert_eq!(grants.rows()[..before.len()], before, "what has a result keeps it");
    }
    // Ctrl-C ends it in order.
    running.signal(Signal::INT);
    let stopped = running.finished().await;
    assert!(stopped.code == Some(3) && stopped.out.is_empty(), "{stopped:?}");
    assert!(stopped.err.contains("--resume goes on"), "{stopped:?}");
    let rest = world.coupons(campaign).await;
    assert!(rest.unsigned_abs() < LINES, "it was not stopped");
    let said = summary(&grants.run(&["--resume", "--json"]).await);
    assert_eq!((&said["lines"], &said["outcomes"]), (&json!(LINES), &json!({ "issued": LINES })));
    grants.assert_whole().await;
    // There is nothing left to do.
    let whole = grants.text();
    assert_eq!(summary(&grants.run(&["--resume", "--json"]).await), said);
    assert_eq!(grants.text(), whole);
    world.close().await;
}

#[tokio::test]
async fn a_run_that_is_repeated_gives_no_more_and_another_run_does() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "per_user_limit": 2 })).await;
    let text = "{\"user_id\":\"alice\"}\n{\"user_id\":\"bob\"}\n";
    let grants = Grants::of(&world, campaign, "users.jsonl", text);
    let run = async |more: &[&str]| {
        summary(&grants.run(&[more, &["--json"]].concat()).await);
        let rows = grants.rows();
        fs::remove_file(&grants.results).unwrap();
        rows
    };
    let coupons = |rows: &[super::Row]| rows.iter().map(|row| row.coupon.clone()).collect::<Vec<_>>();
    for (name, total) in [(&[][..], 2), (&["--run", "july"], 4)] {
        let first = run(name).await;
        assert!(first.iter().all(|row| row.outcome == "issued" && row.reason.is_empty()), "{first:?}");
        let again = run(name).await;
        assert_eq!(coupons(&first), coupons(&again));
        assert!(
            again.iter().all(|row| row.outcome == "issued" && row.reason.contains("earlier")),
            "{again:?}"
        );
        assert_eq!(world.coupons(campaign).await, total);
    }
    let more = run(&["--run", "august"]).await;
    assert!(more.iter().all(|row| row.outcome == "user-limit-reached"), "{more:?}");
    // A user in two lines gets two coupons.
    let twice = world.open_campaign(json!({ "per_user_limit": 2 })).await;
    let twice = Grants::of(&world, twice, "twice.csv", "user_id\nalice\nalice\nalice\n");
    summary(&twice.run(&["--json", "--concurrency", "1"]).await);
    let outcomes = ["2 alice issued", "3 alice issued", "4 alice user-limit-reached"];
    assert_eq!(twice.outcomes(), outcomes);
    world.close().await;
}

/// The results tell which line of which run they are of.
#[tokio::test]
async fn results_are_not_gone_on_with_for_others() {
    let world = World::start().await;
    let [campaign, other] = [world.open_campaign(json!({})).await, world.open_campaign(json!({})).await];
    let grants = Grants::of(&world, campaign, "users.csv", "user_id\nalice\nbob\n,\n");
    summary(&grants.run(&["--json"]).await);
    assert_eq!(grants.outcomes(), ["2 alice issued", "3 bob issued", "4  invalid"]);
    let whole = grants.text();
    let elsewhere = world.folder().join("elsewhere");
    fs::copy(&grants.results, &elsewhere).unwrap();
    let users = grants.users.clone();
    let refused = async |grants: &Grants<'_>, more: &[&str], word: &str| {
        let finished = grants.run(&[more, &["--resume"]].concat()).await;
        assert!(finished.code == Some(2) && finished.err.contains(word), "{word}: {finished:?}");
        assert_eq!(fs::read_to_string(&grants.results).unwrap(), whole);
    };
    let own = |campaign, results: &std::path::Path| Grants {
        world: &world,
        campaign,
        users: users.clone(),
        results: results.to_owned(),
    };
    refused(&own(other, &grants.results), &[], "another run").await;
    refused(&own(campaign, &elsewhere), &[], "another run").await;
    refused(&grants, &["--run", "july"], "another run").await;
    for (text, word) in [
        ("user_id\nalice\nbob\n", "the users end before"),
        ("user_id\nalice\ncarol\n,\n", "line 3 of the users is not the one"),
        ("user_id\n\nalice\nbob\n,\n", "line 3 of the users is not the one"),
        ("user_id\nalice\nbob\ncarol\n", "line 4 of the users is not the one"),
    ] {
        fs::write(&grants.users, text).unwrap();
        refused(&grants, &[], word).await;
    }
    // Lines that were added are gone on with.
    fs::write(&grants.users, "user_id\nalice\nbob\n,\ncarol\n").unwrap();
    OpenOptions::new().append(true).open(&grants.results).unwrap().write_all(b"5,car").unwrap();
    summary(&grants.run(&["--resume", "--json"]).await);
    assert_eq!(grants.outcomes()[2..], ["4  invalid", "5 carol issued"]);
    assert_eq!((world.coupons(campaign).await, world.coupons(other).await), (3, 0));
    world.close().await;
}
