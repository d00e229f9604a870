//! `coupon campaign create`: from options, from a file, from standard input.

use std::fs;

use serde_json::{Value, json};

use super::{assert_ended, json_of};
use crate::support::{World, coupon_fed};

const OPTIONS: [&str; 18] = [
    "--name",
    "Friday",
    "--merchant",
    "shop-7",
    "--face-value",
    "500",
    "--currency",
    "EUR",
    "--quantity",
    "100",
    "--opens-at",
    "2026-01-01T00:00:00Z",
    "--closes-at",
    "2099-01-01T00:00:00Z",
    "--coupon-valid-for",
    "P30D",
    "--settle-on",
    "issue",
];

fn document() -> Value {
    json!({
        "name": "Friday", "merchant_id": "shop-7", "face_value": 500, "currency": "EUR", "quantity": 100,
        "opens_at": "2026-01-01T00:00:00Z", "closes_at": "2099-01-01T00:00:00Z", "coupon_valid_for": "P30D",
        "settle_on": "issue",
    })
}

/// Without what differs from one campaign to the next.
fn without_identity(mut campaign: Value) -> Value {
    let fields = campaign.as_object_mut().unwrap();
    assert!(fields.remove("id").is_some() && fields.remove("created_at").is_some());
    campaign
}

#[tokio::test]
async fn options_a_file_standard_input_and_a_text_create_the_same() {
    let world = World::start().await;
    let file = world.folder().join("friday.json");
    fs::write(&file, document().to_string()).unwrap();
    let (from_file, text) = (format!("@{}", file.display()), document().to_string());
    let create = ["campaign", "create", "--json"];
    let environment = world.command_environment();
    let fed = coupon_fed(&[&create[..], &["-"]].concat(), &environment, &text).await;
    let mut created = vec![json_of(&fed)];
    for arguments in [&OPTIONS[..], &[&from_file], &[&text]] {
        created.push(json_of(&world.coupon(&[&create, arguments].concat()).await));
    }
    let created: Vec<Value> = created.into_iter().map(without_identity).collect();
    assert!(created.iter().all(|campaign| *campaign == created[0]), "{created:#?}");
    for (field, value) in document().as_object().unwrap() {
        assert_eq!(created[0][field], *value, "{field}");
    }

    // An option replaces the field of the document, also the one that excludes it.
    let options = ["--quantity", "7", "--per-user-limit", "2", "--coupon-expires-at", "2099-02-01T00:00:00Z"];
    let changed = json_of(&world.coupon(&[&create[..], &[&*from_file], &options[..]].concat()).await);
    assert_eq!((&changed["quantity"], &changed["per_user_limit"]), (&json!(7), &json!(2)));
    assert_eq!(changed["coupon_expires_at"], "2099-02-01T00:00:00Z");
    assert_eq!((&changed["name"], &changed["coupon_valid_for"]), (&json!("Friday"), &Value::Null));
    world.close().await;
}

#[tokio::test]
async fn what_is_no_campaign_is_not_sent() {
    let world = World::start().await;
    let file = |name: &str, text: &str| {
        let path = world.folder().join(name);
        fs::write(&path, text).unwrap();
        format!("@{}", path.display())
    };
    let (list, large) = (file("list.json", "[1]"), file("large.json", &" ".repeat(20_000)));
    for (arguments, words) in [
        (&[][..], &["no fields", "--help"][..]),
        (
            &["--name", "Friday"],
            &["--merchant, --face-value, --currency, --quantity", "--coupon-valid-for or"],
        ),
        (&["[1]"], &["must be an object of JSON"]),
        (&["@/nowhere.json"], &["/nowhere.json cannot be read"]),
        (&[&list], &["list.json must be an object of JSON"]),
        (&[&large], &["larger than 16384 bytes"]),
        (&["--opens-at", "tomorrow"], &["tomorrow"]),
        (
            &["--coupon-valid-for", "P1D", "--coupon-expires-at", "2099-02-01T00:00:00Z"],
            &["cannot be used with"],
        ),
    ] {
        let finished = world.coupon(&[&["campaign", "create"], arguments].concat()).await;
        assert_ended(&finished, 2, words);
        assert!(finished.out.is_empty(), "{finished:?}");
    }
    // What the API judges, the API says.
    let refused =
        world.coupon(&[&["campaign", "create"], &OPTIONS[..], &["--per-user-limit", "-3"]].concat()).await;
    assert_ended(&refused, 1, &["422", "per_user_limit must be 1 to 10"]);
    let listed = json_of(&world.coupon(&["campaign", "list", "--json"]).await);
    assert_eq!(listed, json!({ "items": [], "next": null }));
    world.close().await;
}

#[tokio::test]
async fn help_has_an_example_that_runs() {
    let world = World::start().await;
    let help = world.coupon(&["campaign", "create", "--help"]).await.out;
    let example =
        help.split("From options, with all fields:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let mut words: Vec<&str> = example.split_whitespace().skip(1).filter(|word| *word != "\\").collect();
    // The example is of a campaign whose window is over one day.
    let closes = words.iter().position(|word| *word == "--closes-at").unwrap() + 1;
    words[closes] = "2099-01-01T00:00:00Z";
    let created = json_of(&world.coupon(&[&words[..], &["--json"]].concat()).await);
    assert_eq!((&created["state"], &created["settle_on"]), (&json!("draft"), &json!("redeem")));
    world.close().await;
}

#[tokio::test]
async fn campaigns_are_listed_as_a_table_in_pages_and_by_state() {
    let world = World::start().await;
    for _ in 0..3 {
        json_of(&world.coupon(&[&["campaign", "create", "--json"], &OPTIONS[..]].concat()).await);
    }
    let open = world.open_campaign(json!({ "name": "Open\u{a0}one" })).await.to_string();
    let list = async |options: &[&str]| world.coupon(&[&["campaign", "list"], options].concat()).await;
    let table = list(&[]).await;
    assert_eq!((table.code, table.out.lines().count(), &*table.err), (Some(0), 5, ""), "{table:?}");
    assert!(table.out.starts_with("ID ") && !table.out.contains('\u{1b}'), "{table:?}");
    let opened = table.out.lines().nth(1).unwrap();
    assert!(opened.starts_with(&open) && opened.contains("open"), "{table:?}");
    assert_eq!(json_of(&list(&["--state", "open,closed", "--json"]).await)["items"][0]["id"], *open);
    let first = list(&["--limit", "2"]).await;
    assert_eq!(first.out.lines().count(), 3, "{first:?}");
    let cursor = first.err.split("--cursor ").nth(1).unwrap().trim();
    let second = json_of(&list(&["--limit", "3", "--cursor", cursor, "--json"]).await);
    assert_eq!((second["items"].as_array().unwrap().len(), &second["next"]), (2, &Value::Null));
    for wrong in [&["--limit", "0"][..], &["--limit", "201"], &["--state", "lost"], &["--cursor", "x"]] {
        assert_eq!(list(wrong).await.code, Some(2), "{wrong:?}");
    }
    world.close().await;
}
