//! Where the API is, with which token, and what becomes of a refusal.

use std::fs;

use serde_json::json;

use super::{assert_ended, json_of};
use crate::support::{TOKEN, World, coupon};

/// Options of a command, and its variables.
type Case<'a> = (&'a [&'a str], &'a [(&'static str, &'a str)]);

#[tokio::test]
async fn options_go_before_variables_and_those_of_commands_before_those_of_the_service() {
    let world = World::start().await;
    let url = format!("http://{}", world.processes[0].address);
    let file = world.folder().join("token");
    let (name, nowhere) = (file.to_str().unwrap(), "http://127.0.0.1:9");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let wrong = "a-token-that-nobody-knows";
    let list = ["campaign", "list", "--json"];
    let cases: [Case<'_>; 4] = [
        (&[], &[("HTTP_ADDR", &url["http://".len()..]), ("ADMIN_TOKEN", TOKEN)]),
        (&[], &[("HTTP_ADDR", "127.0.0.1:9"), ("COUPON_URL", &url), ("ADMIN_TOKEN", TOKEN)]),
        (&[], &[("COUPON_URL", &url), ("COUPON_TOKEN", TOKEN), ("ADMIN_TOKEN", wrong)]),
        (&["--url", &url, "--token-file", name], &[("COUPON_URL", nowhere), ("COUPON_TOKEN", wrong)]),
    ];
    for (options, variables) in cases {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        json_of(&coupon(&[&list, options].concat(), &variables).await);
    }
    world.close().await;
}

#[tokio::test]
async fn what_leads_to_no_api_is_named_before_anything_connects() {
    let world = World::bare(1).await;
    world.migrate().await;
    let file = |name: &str, text: &str| {
        let path = world.folder().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (short, empty, long) =
        (file("short", "hunter2"), file("empty", ""), file("long", &"x".repeat(1 << 15)));
    let token = ("COUPON_TOKEN", TOKEN.to_owned());
    for (options, variables, words) in [
        (vec![], vec![], &["COUPON_TOKEN, --token-file or ADMIN_TOKEN is needed"][..]),
        (vec![], vec![("COUPON_TOKEN", "hunter2".to_owned())], &["COUPON_TOKEN must be at least 16"]),
        (vec!["--token-file", &short], vec![], &["--token-file", &short, "must be at least 16"]),
        (vec!["--token-file", &empty], vec![token.clone()], &["--token-file", "must be at least 16"]),
        (vec!["--token-file", &long], vec![], &["larger than"]),
        (vec!["--token-file", "/nowhere"], vec![], &["/nowhere", "No such file"]),
        (
            vec!["--url", "https://localhost:9"],
            vec![token.clone(), ("COUPON_CA", short.clone())],
            &["COUPON_CA", &short, "no certificate"],
        ),
        (
            vec!["--url", "https://localhost:9"],
            vec![("COUPON_CA", "/nowhere.pem".to_owned())],
            &["COUPON_CA", "/nowhere.pem", "COUPON_TOKEN"],
        ),
    ] {
        let finished = coupon(&[&["campaign", "list"], &options[..]].concat(), &variables).await;
        assert_ended(&finished, 2, words);
        assert!(!finished.err.contains("hunter2") && finished.out.is_empty(), "{finished:?}");
    }
    world.close().await;
}

/// Each refusal is its title, its detail and its fields, and the exit code tells what a script can do.
#[tokio::test]
async fn a_refusal_is_told_in_full_and_has_the_exit_code_of_its_kind() {
    let mut world = World::start().await;
    let campaign = world.open_campaign(json!({})).await.to_string();
    let unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let as_reader = [("COUPON_TOKEN", world.token(&["--scope", "read"]).await)];
    let as_nobody = [("COUPON_TOKEN", "a-token-that-nobody-knows".to_owned())];
    let refused = world.coupon_with(&["campaign", "list"], &as_nobody).await;
    let of_variable = "; the token is that of COUPON_TOKEN, which takes precedence over ADMIN_TOKEN\n";
    assert_ended(&refused, 6, &["401", "A valid bearer token is required", of_variable]);
    let refused = world.coupon_with(&["campaign", "open", &campaign], &as_reader).await;
    assert_ended(&refused, 6, &["403", of_variable]);
    let file = world.folder().join("nobody.token");
    fs::write(&file, &as_nobody[0].1).unwrap();
    let file = file.to_str().unwrap();
    let refused = world.coupon(&["campaign", "list", "--token-file", file]).await;
    assert_ended(&refused, 6, &["401", &format!("; the token is that of --token-file {file}\n")]);
    let as_nobody = [("ADMIN_TOKEN", as_nobody[0].1.clone())];
    let refused = world.coupon_with(&["campaign", "list"], &as_nobody).await;
    assert_ended(&refused, 6, &["401", "; the token is that of ADMIN_TOKEN\n"]);
    let refused = world.coupon(&["campaign", "show", unknown]).await;
    assert_ended(&refused, 7, &["404", "Not found", "No campaign has this id."]);
    assert_ended(&world.coupon(&["show", unknown]).await, 7, &["No coupon has this id or code."]);
    let wrong = r#"{"name": "", "quantity": 0, "merchant_id": "m", "face_value": 1, "currency": "EUR",
        "opens_at": "2026-01-01T00:00:00Z", "closes_at": "2099-01-01T00:00:00Z", "coupon_valid_for": "P1D"}"#;
    let refused = world.coupon(&["campaign", "create", wrong]).await;
    assert_ended(&refused, 1, &["422", "\n  name must be 1 to 200 bytes", "\n  quantity must be 1 to"]);

    world.servers.postgres.kill().await;
    let refused = world.coupon(&["campaign", "list"]).await;
    assert_ended(&refused, 8, &["503", "The database cannot be reached"]);
    world.servers.postgres.start().await.unwrap();
    let address = world.processes[0].address;
    world.processes[0].kill();
    let refused = world.coupon(&["campaign", "list"]).await;
    assert_ended(&refused, 8, &["Connection refused", &address.to_string()]);
    world.processes[0].start().await;
    world.close().await;
}
