//! The log of what was changed of a campaign.

use serde_json::{Value, json};

use crate::editing::{change, edit, shown};
use crate::issuing::{claim, with_writer};
use crate::support::{SOON, World, in_seconds, wait_until};

/// Who did what, from what to what, by which request; the clock too.
#[tokio::test]
async fn every_change_is_in_the_log() {
    let world = World::start().await;
    let token = world.token(&["--scope", "campaign"]).await;
    let campaign = world.create_campaign(json!({ "quantity": 10, "opens_at": in_seconds(1) })).await;
    let log = async || {
        let page = world.api().get(&format!("/v1/campaigns/{campaign}/changes")).await;
        assert_eq!(page.status, 200, "{page:?}");
        page.body["changes"].as_array().unwrap().clone()
    };
    change(&world, campaign, "open").await;
    let open = async || shown(&world, campaign).await["state"] == "open";
    wait_until("its time has come", SOON, open).await;
    let api =
        world.api().with_token(Some(&token)).with("request-id", "edit-1").with("idempotency-key", "once");
    let edited = edit(&api, campaign, json!({ "quantity": 20, "name": "Friday" })).await;
    assert_eq!(edited.status, 200, "{edited:?}");
    let again = edit(&api, campaign, json!({ "name": "Friday", "quantity": 20 })).await;
    assert_eq!(
        (again.status, again.header("idempotency-replayed"), &again.text),
        (200, Some("true"), &edited.text)
    );
    change(&world, campaign, "pause").await;
    let log = log().await;
    let told = |n: usize| {
        let change = &log[log.len() - n];
        (
            change["version"].as_i64().unwrap(),
            change["actor"].as_str().unwrap(),
            &change["before"],
            &change["after"],
        )
    };
    let (version, actor, before, after) = told(1);
    assert_eq!((version, actor, before), (1, "administrator", &Value::Null));
    assert_eq!((&after["quantity"], &after["state"], after.get("id")), (&json!(10), &json!("draft"), None));
    let state = |state: &str| json!({ "state": state });
    assert_eq!(told(2), (2, "administrator", &state("draft"), &state("scheduled")));
    assert_eq!(told(3), (3, "clock", &state("scheduled"), &state("open")));
    let (version, actor, before, after) = told(4);
    assert_eq!((version, before, after), (4, &json!({ "quantity": 10 }), &json!({ "quantity": 20 })));
    assert!(actor.starts_with("token:"), "{actor}");
    assert_eq!(log[log.len() - 4]["request_id"], "edit-1");
    assert_eq!(told(5), (5, "administrator", &state("open"), &state("paused")));
    assert_eq!(log.len(), 5);
    // In pages.
    let mut path = format!("/v1/campaigns/{campaign}/changes?limit=2");
    let mut seen = Vec::new();
    loop {
        let page = world.api().get(&path).await.body;
        seen.extend(page["changes"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/campaigns/{campaign}/changes?limit=2&cursor={next}");
    }
    assert_eq!(seen, log);
    let unknown = format!("/v1/campaigns/{}/changes", ulid::Ulid::generate());
    assert_eq!(world.api().get(&unknown).await.problem(), "not-found");
    world.close().await;
}

/// The first winner opens a campaign before the clock has noticed: the log has that too.
#[tokio::test]
async fn an_opening_by_the_first_winner_is_in_the_log() {
    let mut world = World::start().await;
    let campaign = world.create_campaign(json!({ "opens_at": in_seconds(1) })).await;
    change(&world, campaign, "open").await;
    world.processes[0].kill();
    let routes = with_writer(&world).await;
    let won = async || claim(&world, &routes, campaign, "alice").await == 201;
    wait_until("alice has a coupon", SOON, won).await;
    world.processes[0].start().await;
    let page = world.api().get(&format!("/v1/campaigns/{campaign}/changes")).await.body;
    let newest = &page["changes"][0];
    assert_eq!((&newest["version"], &newest["actor"]), (&json!(3), &json!("clock")), "{page}");
    assert_eq!(newest["after"], json!({ "state": "open" }));
    world.close().await;
}
