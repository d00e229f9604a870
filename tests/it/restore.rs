//! The page about a backup: its commands, run as they stand around a loss.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use crate::support::{SOON, World, python, wait_until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PAGE: &str = "docs/how-to/restore.md";

/// The blocks of the page, in order.
fn blocks() -> Vec<String> {
    let text = fs::read_to_string(format!("{ROOT}/{PAGE}")).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(|block| block.lines().map(str::trim).collect::<Vec<_>>().join("\n")).collect()
}

/// What a block prints. Each of its commands does what it should.
async fn run(world: &World, block: &str) -> String {
    let database = world.servers.database_url();
    let maintenance = format!("{}/postgres", database.rsplit_once('/').unwrap().0);
    let paths = [env!("CARGO_BIN_EXE_coupon").into(), python()]
        .map(|path| path.parent().unwrap().display().to_string());
    let path = format!("{}:{}", paths.join(":"), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", block]).current_dir(world.folder()).stdin(Stdio::null());
    bash.envs(world.environment()).env("MAINTENANCE_URL", maintenance).env("PATH", path);
    let output = bash.output().await.unwrap();
    assert!(output.status.success(), "{block}\n{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_backup_is_restored_as_the_page_says() {
    let blocks = blocks();
    let [back_up, restore, sheet, events, coupons, begin, audit] = &blocks[..] else { panic!("{blocks:#?}") };
    let mut world = World::start().await;
    symlink(format!("{ROOT}/examples"), world.folder().join("examples")).unwrap();
    let campaign = world.open_campaign(json!({})).await;
    for user in 1..=5 {
        assert_eq!(world.claim(campaign, &format!("user-{user}")).await.status, 201);
    }
    run(&world, back_up).await;
    // Lost with the database, so the world must not remember them as promised.
    let path = format!("/v1/campaigns/{campaign}/coupons");
    for user in 6..=8 {
        let claim = json!({ "user_id": format!("user-{user}") });
        assert_eq!(world.api().post(&path, &claim).await.status, 201);
    }
    world.balanced().await;

    world.processes[0].terminate();
    assert_eq!(world.processes[0].ended().await.code(), Some(0));
    // The connections of this test are gone, too.
    world.servers.postgres.stop().await;
    world.servers.postgres.start().await.unwrap();
    run(&world, restore).await;
    let said = run(&world, sheet).await;
    assert!(said.contains("\n0                                  6         9 "), "{said}");
    assert_eq!(run(&world, events).await.matches("coupon.issued.v1").count(), 3);
    let said = run(&world, coupons).await;
    assert!(
        (6..=8).all(|user| said.contains(&format!("'user-{user}'"))) && !said.contains("'user-5'"),
        "{said}"
    );

    world.processes[0].start().await;
    world.tells(0, "halted", "the database was restored to an earlier time").await;
    run(&world, begin).await;
    let ready = async || world.processes[0].http().get("/readyz").await.body["status"] == "ready";
    wait_until("the relay continues", SOON, ready).await;
    assert_eq!(world.claim(campaign, "user-6").await.status, 201);
    world.balanced().await;
    assert!(run(&world, audit).await.ends_with("balanced\n"));
    world.close().await;
}
