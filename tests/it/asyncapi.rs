//! The `AsyncAPI` document says what the service publishes. `support/events.rs` holds every event against it that any test
//! has published, `golden.rs` keeps it as it is.

use coupon_dispatcher::event::{KINDS, OUTLET};
use serde_json::{Value, json};

use crate::support::asyncapi::{DOCUMENT, as_told, assert_described, faults, judge, schema_of};
use crate::support::{SOON, World, coupon, wait_for};

/// By the schema that the authors of `AsyncAPI` publish.
#[test]
fn the_document_is_valid() {
    let schema: Value = serde_json::from_str(include_str!("golden/asyncapi-3.0.0.json")).unwrap();
    let judge = judge(&schema);
    assert_eq!(faults(&judge, &DOCUMENT), [""; 0]);
    for (pointer, wrong) in
        [("/channels/issued/address", json!(7)), ("/operations/publishIssued/action", json!("x"))]
    {
        let mut document = DOCUMENT.clone();
        *document.pointer_mut(pointer).unwrap() = wrong;
        assert_ne!(faults(&judge, &document), [""; 0], "{pointer}");
    }
}

/// Each reference leads somewhere, each type has a channel, an operation and a message, and each parameter is told.
#[test]
fn the_document_is_whole() {
    let text = DOCUMENT.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(DOCUMENT.pointer(reference).is_some(), "{reference} leads nowhere");
    }
    for kind in KINDS {
        let channel = &DOCUMENT["channels"][kind];
        assert_eq!(channel["address"], format!("{}.{kind}.{{campaign_id}}.{{shard}}", OUTLET.subjects));
        let name = format!("coupon.{kind}.v1");
        assert_eq!(DOCUMENT["components"]["messages"][kind]["name"], name);
        assert_eq!(
            DOCUMENT["components"]["schemas"][kind]["properties"]["type"]["const"], name,
            "the schema of another type"
        );
        assert!(DOCUMENT["channels"]["replays"]["messages"][kind].is_object(), "{kind}");
    }
    let channels = DOCUMENT["channels"].as_object().unwrap();
    assert_eq!(channels.len(), KINDS.len() + 2, "a channel of no type");
    for (name, channel) in channels {
        let sends = DOCUMENT["operations"].as_object().unwrap().values();
        let sends = sends.filter(|one| one["channel"]["$ref"] == format!("#/channels/{name}"));
        assert_eq!(sends.count(), 1, "{name}");
        let mut told: Vec<_> = channel["parameters"].as_object().unwrap().keys().collect();
        let address = channel["address"].as_str().unwrap();
        let mut named: Vec<_> = address.split(['{', '}']).skip(1).step_by(2).collect();
        named.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, named, "{name}");
    }
}

#[test]
fn examples_are_as_the_document_describes_them() {
    for kind in KINDS {
        let example = &DOCUMENT["components"]["messages"][kind]["examples"][0];
        let mut message = example.clone();
        message["subject"] = json!(format!("coupons.{kind}.01M7WFKGE14NWN561KVXBYTJTX.0"));
        assert_eq!(faults(&judge(&schema_of(kind, kind)), &message), [""; 0], "{kind}");
    }
}

#[tokio::test]
async fn the_document_is_served_and_printed() {
    let world = World::with_processes(&["api", "relay"]).await;
    let printed = coupon(&["asyncapi"], &[]).await;
    assert_eq!((printed.code, &*printed.err), (Some(0), ""), "{printed:?}");
    for process in &world.processes {
        let api = process.http().with_token(None);
        let served = wait_for("the process listens", SOON, async || api.try_get("/asyncapi.json").await);
        let answer = served.await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        assert_eq!(answer.text, printed.out);
    }
    world.close().await;
}

/// Every message of every channel: events, replays, and the letter of one that cannot be applied.
#[tokio::test]
async fn messages_of_the_service_are_as_the_document_describes_them() {
    let world = World::start().await;
    world.execute("ALTER TABLE wallet ADD CONSTRAINT poison CHECK (user_id <> 'bob')").await;
    let campaign = world.open_campaign(json!({ "quantity": 2 })).await;
    let traced = world.api().with("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    for user in ["alice", "bob"] {
        let claims = format!("/v1/campaigns/{campaign}/coupons");
        assert_eq!(traced.post(&claims, &json!({ "user_id": user })).await.status, 201);
    }
    for change in ["pause", "close"] {
        world.api().post(&format!("/v1/campaigns/{campaign}/{change}"), &Value::Null).await;
    }
    world.assert_published().await;
    world.passed().await;
    let replayed = world.coupon(&["replay", "--run", "again", "--yes"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");

    for (stream, channel) in [("COUPONS-0", None), ("COUPONS-REPLAY", Some("replays"))] {
        let mut kinds = Vec::new();
        for message in world.messages(stream).await {
            let kind = as_told(&message)["payload"]["type"].as_str().unwrap().to_owned();
            let kind = kind.split('.').nth(1).unwrap().to_owned();
            assert_described(channel.unwrap_or(&kind), &kind, &message);
            kinds.push(kind);
        }
        kinds.dedup();
        let all = ["campaign-opened", "issued", "campaign-sold-out", "campaign-changed", "campaign-closed"];
        assert_eq!(kinds, all, "{stream}");
    }
    let letters = world.messages("COUPONS-DEAD").await;
    assert_eq!(letters.len(), 1);
    assert_described("dead", "deadLetter", &letters[0]);
    world.execute("ALTER TABLE wallet DROP CONSTRAINT poison").await;
    let position = as_told(&letters[0])["headers"]["Outbox-Position"].as_str().unwrap().parse::<i64>();
    world.letter("redrive", &json!(position.unwrap())).await;
    world.close().await;
}
