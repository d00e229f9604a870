//! Every command that prints data has `--json`, and what it prints then has one shape.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};

use super::json_of;
use crate::docs::names::helped;
use crate::support::{SOON, World, wait_until};

/// What a command prints with `--json`.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Object,
    /// `{"items": […], "next": …}`.
    List,
}
use Shape::{List, Object};

/// Commands that print no data, and what they do instead.
const SILENT: [(&str, &str); 7] = [
    ("serve", "logs"),
    ("migrate", "logs"),
    ("demo", "tells what its users experience, for people"),
    ("dead redrive", "prints nothing"),
    ("assets", "writes files"),
    ("openapi", "prints a document of JSON in lines"),
    ("asyncapi", "prints a document of JSON in lines"),
];

/// Calls of every other command, in this order. Words in capital letters stand for ids.
const CALLS: [(&str, Shape); 34] = [
    (
        "campaign create --name x --merchant m --face-value 1 --currency EUR --quantity 1 --opens-at \
         2026-01-01T00:00:00Z --closes-at 2099-01-01T00:00:00Z --coupon-valid-for P1D",
        Object,
    ),
    ("campaign list", List),
    ("campaign show CAMPAIGN", Object),
    ("campaign open CAMPAIGN", Object),
    ("show COUPON", Object),
    ("redeem CODE --order-ref order-1", Object),
    ("restore COUPON --order-ref order-1", Object),
    ("cancel COUPON --yes", Object),
    ("history COUPON", List),
    ("find --user alice", List),
    ("user coupons alice", List),
    ("grant --campaign CAMPAIGN --results RESULTS USERS", Object),
    ("replay --type issued --dry-run", Object),
    ("replay --type issued --run x", Object),
    ("replay --list", List),
    ("replay --cancel x --yes", Object),
    ("rebuild settlement", Object),
    ("relay epoch list", List),
    ("relay epoch new --dry-run", Object),
    ("dead list", List),
    ("dead show wallet POSITION", Object),
    ("dead drop wallet POSITION --dry-run", Object),
    ("token create --name x --scope read", Object),
    ("token list", List),
    ("token rotate TOKEN", Object),
    ("token revoke TOKEN --yes", Object),
    ("audit --campaign OTHER", Object),
    ("doctor", Object),
    ("status", Object),
    ("campaign edit CAMPAIGN --quantity 9", Object),
    ("campaign changes CAMPAIGN", List),
    ("campaign sync CAMPAIGN", Object),
    ("campaign pause CAMPAIGN", Object),
    ("campaign close CAMPAIGN --yes", Object),
];

/// The commands that have no commands below them, with their options.
fn commands() -> BTreeMap<String, BTreeSet<String>> {
    let known = helped();
    let is_leaf = |words: &Vec<String>| {
        !known.keys().any(|other| other.len() > words.len() && other.starts_with(words))
    };
    let leaves = known.iter().filter(|(words, _)| is_leaf(words));
    leaves.map(|(words, options)| (words.join(" "), options.clone())).collect()
}

#[test]
fn every_command_that_prints_data_has_json() {
    let commands = commands();
    for (command, options) in &commands {
        let silent = SILENT.iter().find(|(silent, _)| silent == command);
        let called =
            CALLS.iter().any(|(call, _)| call.starts_with(&format!("{command} ")) || call == command);
        assert!(silent.is_some() != called, "{command} must be either in CALLS or in SILENT");
        assert_eq!(options.contains("--json"), called, "{command}");
    }
    for (silent, _) in SILENT {
        assert!(commands.contains_key(silent), "there is no command {silent}");
    }
}

#[tokio::test]
async fn what_is_printed_with_json_has_one_shape() {
    let world = World::start().await;
    let (campaign, other) = (world.open_campaign(json!({})).await, world.open_campaign(json!({})).await);
    let coupon = world.claim(campaign, "alice").await.body;
    let [coupon, code] = ["id", "code"].map(|field| coupon[field].as_str().unwrap().to_owned());
    world.execute("ALTER TABLE wallet ADD CONSTRAINT poison CHECK (user_id <> 'mallory')").await;
    world.claim(campaign, "mallory").await;
    wait_until("the event is parked", SOON, async || world.dead_letters().await.len() == 1).await;
    world.execute("ALTER TABLE wallet DROP CONSTRAINT poison").await;
    let position = world.dead_letters().await[0]["position"].clone();
    let token = world.token(&["--scope", "read"]).await;
    let (users, results) = (world.folder().join("users.csv"), world.folder().join("results.csv"));
    fs::write(&users, "user_id\nbob\n").unwrap();
    let ids = [
        ("USERS", users.display().to_string()),
        ("RESULTS", results.display().to_string()),
        ("CAMPAIGN", campaign.to_string()),
        ("OTHER", other.to_string()),
        ("COUPON", coupon),
        ("CODE", code),
        ("POSITION", position.to_string()),
        ("TOKEN", token.split('_').nth(1).unwrap().to_owned()),
    ];
    for (call, shape) in CALLS {
        let words = call
            .split_whitespace()
            .map(|word| ids.iter().find(|(name, _)| *name == word).map_or(word, |(_, id)| id));
        let mut finished = world.coupon(&words.chain(["--json"]).collect::<Vec<_>>()).await;
        // What these judge is another matter: an event is parked.
        if ["audit", "doctor", "rebuild"].iter().any(|judge| call.starts_with(judge)) {
            assert!(finished.code.is_some_and(|code| code < 3), "{finished:?}");
            finished.code = Some(0);
        }
        let value = json_of(&finished);
        let members = value.as_object().unwrap_or_else(|| panic!("{call}: {value}"));
        let is_list = members.keys().eq(["items", "next"]);
        assert_eq!(is_list, shape == List, "{call}: {value}");
        if is_list {
            assert!(
                members["items"].as_array().is_some_and(|items| items.iter().all(Value::is_object)),
                "{value}"
            );
            assert!(members["next"].is_null() || members["next"].is_string(), "{value}");
        }
    }
    world.letter("redrive", &position).await;
    world.close().await;
}
