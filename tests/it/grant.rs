//! Coupons for many users from a file: one result a line, one coupon a line, whatever ends the command.

mod resumed;
mod retried;

use std::fs;
use std::path::PathBuf;

use coupon_dispatcher::ids::CampaignId;
use hyper::Method;
use serde_json::{Value, json};

use crate::support::{Finished, Running, TOKEN, World, coupon_fed};

const HEADER: &str = "line,user_id,outcome,coupon_id,reason,idempotency_key";

/// A row of a results file.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    line: u64,
    user: String,
    outcome: String,
    coupon: String,
    reason: String,
    key: String,
}

/// The files of a test, and the options of its grants.
struct Grants<'a> {
    world: &'a World,
    campaign: CampaignId,
    users: PathBuf,
    results: PathBuf,
}

impl<'a> Grants<'a> {
    /// Of a campaign to the users of this text, in a file with this name.
    fn of(world: &'a World, campaign: CampaignId, name: &str, text: impl AsRef<[u8]>) -> Self {
        let users = world.folder().join(name);
        fs::write(&users, text).unwrap();
        Self { world, campaign, users, results: world.folder().join(format!("{name}.results")) }
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let (campaign, results) = (self.campaign.to_string(), self.results.to_str().unwrap());
        let own = ["grant", "--campaign", &campaign, "--results", results, self.users.to_str().unwrap()];
        own.iter().chain(more).map(ToString::to_string).collect()
    }

    fn start(&self, more: &[&str]) -> Running {
        let arguments = self.arguments(more);
        self.world.start_coupon(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    async fn run(&self, more: &[&str]) -> Finished {
        self.start(more).finished().await
    }

    /// The whole lines of the results file.
    fn text(&self) -> String {
        let text = fs::read_to_string(&self.results).unwrap_or_default();
        text.rsplit_once('\n').map(|(whole, _)| format!("{whole}\n")).unwrap_or_default()
    }

    fn rows(&self) -> Vec<Row> {
        let text = self.text();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows: Vec<Row> = reader
            .records()
            .map(|record| {
                let record = record.unwrap();
                let mut fields = record.iter().map(str::to_owned);
                let mut next = || fields.next().unwrap();
                Row {
                    line: next().parse().unwrap(),
                    user: next(),
                    outcome: next(),
                    coupon: next(),
                    reason: next(),
                    key: next(),
                }
            })
            .collect();
        assert!(text.is_empty() || text.starts_with(&format!("{HEADER}\n")), "{text}");
        rows
    }

    /// Line, user and outcome of each row, as words.
    fn outcomes(&self) -> Vec<String> {
        let rows = self.rows().into_iter();
        rows.map(|Row { line, user, outcome, .. }| format!("{line} {user} {outcome}")).collect()
    }
}

/// CSV with this number of users, each in one line.
fn users(count: u64) -> String {
    let lines = ["user_id".to_owned()].into_iter().chain((0..count).map(|user| format!("user-{user}")));
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// The summary of a grant that is done.
fn summary(finished: &Finished) -> Value {
    assert_eq!((finished.code, &*finished.err), (Some(0), ""), "{finished:?}");
    serde_json::from_str(&finished.out).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

const MIXED: &[u8] = b"name,user_id,note\r\n\
\"Alice, A.\",alice,\"says \"\"hi\"\"\nand goes on\"\r\n\
Alice,alice,again\r\n\
\"not closed,mallory,x\r\n\
latin \xe9,mallory,x\r\n\
too,few\r\n\
Two,two words,x\r\n\
\r\n\
\"Bob\",\"bob\",\"\"\r\n\
Carol,carol,x\r\n\
Dave,dave,x";

#[tokio::test]
async fn every_line_has_its_outcome_in_order_and_a_broken_one_stops_nothing() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 3 })).await;
    let grants = Grants::of(&world, campaign, "users.csv", MIXED);
    let said = summary(&grants.run(&["--json", "--concurrency", "1"]).await);
    let outcomes = grants.outcomes();
    let expected = [
        "2 alice issued",
        "4 alice already-issued",
        "5  invalid",
        "6  invalid",
        "7  invalid",
        "8  invalid",
        "10 bob issued",
        "11 carol issued",
        "12 dave sold-out",
    ];
    assert_eq!(outcomes, expected);
    let counts = json!({ "issued": 3, "already-issued": 1, "invalid": 4, "sold-out": 1 });
    assert_eq!((&said["lines"], &said["outcomes"]), (&json!(9), &counts));
    let rows = grants.rows();
    let reasons = rows[2..6].iter().map(|row| &*row.reason).collect::<Vec<_>>();
    let told = ["not closed", "not UTF-8", "2 fields", "user_id that must be"];
    assert!(reasons.iter().zip(told).all(|(reason, word)| reason.contains(word)), "{reasons:?}");
    // The coupon of each issued line is that of its user, and no code is told.
    assert_eq!(rows[0].coupon, rows[1].coupon);
    for row in rows.iter().filter(|row| row.outcome == "issued") {
        let shown = world.api().get(&format!("/v1/coupons/{}", row.coupon)).await.body;
        assert_eq!(shown["user_id"], json!(row.user));
        assert!(!grants.text().contains(shown["code"].as_str().unwrap()));
    }
    // A person gets a table.
    let again = Grants { results: world.folder().join("again"), ..grants };
    let finished = again.run(&[]).await;
    let table =
        "OUTCOME         LINES\nalready-issued      4\ninvalid             4\nsold-out            1\n";
    assert_eq!((finished.code, &*finished.out, &*finished.err), (Some(0), table, ""), "{finished:?}");
    assert_eq!(world.coupons(campaign).await, 3);
    world.close().await;
}

#[tokio::test]
async fn json_lines_come_from_standard_input_and_states_are_outcomes() {
    let world = World::start().await;
    let change = async |campaign: CampaignId, what: &str| {
        let changed = world.api().send(Method::POST, &format!("/v1/campaigns/{campaign}/{what}"), "").await;
        assert_eq!(changed.status, 200, "{changed:?}");
    };
    let open = world.open_campaign(json!({ "per_user_limit": 2 })).await;
    let draft = world.create_campaign(json!({})).await;
    let paused = world.open_campaign(json!({})).await;
    change(paused, "pause").await;
    let closed = world.open_campaign(json!({})).await;
    change(closed, "close").await;
    let text = "{\"user_id\":\"alice\",\"note\":[1,{}]}\n{\"user_id\":\"alice\"}\nnonsense\n\n{\"user\":\"x\"}\n{\"user_id\":7}\n{\"user_id\":\"alice\"}";
    for (campaign, expected) in [
        (open, "issued issued invalid invalid invalid user-limit-reached"),
        (draft, "not-open not-open invalid invalid invalid not-open"),
        (paused, "not-open not-open invalid invalid invalid not-open"),
        (closed, "closed closed invalid invalid invalid closed"),
    ] {
        let grants = Grants {
            world: &world,
            campaign,
            users: "-".into(),
            results: world.folder().join(campaign.to_string()),
        };
        let arguments = grants.arguments(&["--concurrency", "1", "--json"]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = summary(&coupon_fed(&arguments, &world.command_environment(), text).await);
        assert_eq!(said["lines"], 6);
        let rows = grants.rows();
        let outcomes: Vec<&str> = rows.iter().map(|row| &*row.outcome).collect();
        assert_eq!(outcomes.join(" "), expected);
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 2, 3, 5, 6, 7]);
    }
    assert_eq!(world.coupons(open).await, 2);
    world.close().await;
}

/// What is wrong is told before anything is claimed, with what to do.
#[tokio::test]
async fn a_grant_that_cannot_begin_says_what_to_do() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let grants = Grants::of(&world, campaign, "users.csv", "user_id\nalice\n");
    let refused = |finished: Finished, words: &[&str]| {
        assert_eq!((finished.code, &*finished.out), (Some(2), ""), "{finished:?}");
        assert!(words.iter().all(|word| finished.err.contains(word)), "{words:?}: {finished:?}");
    };
    for (name, text, words) in [
        ("a.csv", "name\nx\n", &["a.csv", "no column user_id"][..]),
        ("b.csv", "", &["b.csv", "empty"]),
        ("c", "user;user_id\nx;y\n", &["c", "no column user_id", "commas"]),
        ("d", "{\"user_id\":\"x\"}\n", &["d", "its header has a quote"]),
    ] {
        let other = Grants::of(&world, campaign, name, text);
        refused(other.run(&["--format", "csv"]).await, words);
        assert!(!other.results.exists());
    }
    let nowhere = Grants { users: "/nowhere.csv".into(), ..Grants::of(&world, campaign, "e", "") };
    refused(nowhere.run(&[]).await, &["/nowhere.csv", "No such file"]);
    for options in [["--concurrency", "0"], ["--concurrency", "513"], ["--run", ""], ["--format", "xml"]] {
        refused(grants.run(&options).await, &[options[0]]);
    }
    refused(grants.run(&["--resume"]).await, &["leave out --resume"]);
    // Neither a file of something else nor the results of an earlier run is written.
    for text in ["something else", "something else\n", HEADER, ""] {
        fs::write(&grants.results, text).unwrap();
        refused(grants.run(&[]).await, &["users.csv.results", "--resume", "another file"]);
        assert_eq!(fs::read_to_string(&grants.results).unwrap(), text);
        if text.starts_with('s') {
            refused(grants.run(&["--resume"]).await, &["not a results file"]);
            assert_eq!(fs::read_to_string(&grants.results).unwrap(), text);
        }
    }
    assert_eq!(world.coupons(campaign).await, 0);
    summary(&grants.run(&["--resume", "--json"]).await);
    assert_eq!(grants.outcomes(), ["2 alice issued"]);
    // The whole grant ends where no claim can succeed, with the exit code of its kind.
    let unknown = Grants {
        campaign: CampaignId(ulid::Ulid::from_parts(1, 1)),
        results: world.folder().join("unknown"),
        ..grants
    };
    let finished = unknown.run(&[]).await;
    assert!(finished.code == Some(7) && finished.err.contains("--resume"), "{finished:?}");
    let reader = world.token(&["--scope", "read"]).await;
    let token = world.folder().join("token");
    for (text, words) in [(&*reader, "403"), (&*TOKEN.replace('a', "b"), "401")] {
        fs::write(&token, text).unwrap();
        let other = Grants {
            campaign,
            results: world.folder().join(format!("refused-{words}")),
            ..Grants::of(&world, campaign, "g.csv", "user_id\nx\n")
        };
        let finished = other.run(&["--token-file", token.to_str().unwrap()]).await;
        assert!(finished.code == Some(6) && finished.err.contains(words), "{finished:?}");
        assert_eq!(other.rows(), []);
    }
    assert_eq!(world.coupons(campaign).await, 1);
    world.close().await;
}
