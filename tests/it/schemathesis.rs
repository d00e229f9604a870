//! schemathesis makes requests of the `OpenAPI` document, right ones and wrong ones, and compares the answers with it:
//! `make api-check SEED=7 EXAMPLES=500`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use coupon_dispatcher::http::routes;
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{TOKEN, World};
use crate::users::signing::by_secret;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Requests of each route in the phase that makes them at random. The other phases are of the document's own length.
const EXAMPLES: &str = "5";
/// For one caller, beside other tests.
const LIMIT: Duration = Duration::from_secs(600);

/// What the environment says, or else this.
fn given(variable: &str, otherwise: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| otherwise.to_owned())
}

/// Asks as a caller with this token, or with none.
async fn check(world: &World, caller: &str, token: Option<&str>, here: [(&str, String); 2]) {
    let folder = Path::new(ROOT).join("tests/schemathesis");
    let program = Path::new(ROOT).join("target/schemathesis/bin/schemathesis");
    let missing = "run `.ci/servers test`, or set API_CHECK=skip to leave this test out";
    assert!(program.is_file(), "{} is missing: {missing}", program.display());
    let mut command = Command::new(program);
    command.arg("--config-file").arg(folder.join("schemathesis.toml"));
    command.args(["run", &format!("http://{}/openapi.json", world.processes[0].address)]);
    command.args(["--checks", "all", "--no-color", "--warnings", "off"]);
    command.args(["--seed", &given("SEED", "1"), "--max-examples", &given("EXAMPLES", EXAMPLES)]);
    if let Some(token) = token {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    command.env_clear().envs(here).env("PYTHONPATH", &folder).env("PYTHONDONTWRITEBYTECODE", "1");
    command.current_dir(world.folder());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await.expect("schemathesis does not end").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("as {caller}:\n{said}");
    assert!(output.status.success(), "as {caller}:\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // All but that of the document itself, which is read to begin with.
    let tested = format!("Tested: {}\n", routes().count() - 1);
    assert!(said.contains(&tested), "as {caller}: not {tested}{said}");
}

#[tokio::test]
async fn the_service_is_as_its_document_says() {
    if given("API_CHECK", "") == "skip" {
        eprintln!("API_CHECK=skip: schemathesis does not check the API");
        return;
    }
    let mut world = World::bare(1).await;
    world.admits_users(None);
    world.set("FAILED_LOGIN_LIMIT", "off"); // most wrong requests of one address have a wrong token
    world.migrate().await;
    world.add_process("").await;
    let campaign = world.open_campaign(json!({ "quantity": 1_000_000, "per_user_limit": 10 })).await;
    let coupon = world.claim(campaign, "alice").await.body["id"].as_str().unwrap().to_owned();
    let here = [("CAMPAIGN", campaign.to_string()), ("COUPON", coupon)];
    check(&world, "administrator", Some(TOKEN), here.clone()).await;
    check(&world, "end user", Some(&by_secret("alice", 3_600)), here.clone()).await;
    check(&world, "nobody", None, here).await;
    world.close().await;
}
