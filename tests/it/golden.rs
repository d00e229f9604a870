//! What readers of events rely on. For each type `golden/` has messages as a version published them (`<type>.json`; with
//! fields that came later `<type>-2.json`, and so on), and `<type>.schema.json`, what the `AsyncAPI` document promised.
//!
//! An example never changes, because the stream keeps every event. A schema changes by new optional fields alone. To
//! record them: `INSTA_UPDATE=always cargo test --features failpoints --test it -- golden::`, which writes no schema that
//! breaks a reader.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::{env, fs};

use coupon_dispatcher::event::{
    CAMPAIGN_CHANGED, CAMPAIGN_CLOSED, CAMPAIGN_OPENED, CAMPAIGN_SOLD_OUT, CANCELLED, CampaignChanged,
    CampaignPhase, CampaignSoldOut, CouponChanged, CouponUsed, EXPIRED, ISSUED, Issued, KINDS, REDEEMED,
    RESTORED,
};
use outbox_relay::Event;
use outbox_relay::strict::from_object;
use serde_json::{Map, Value, json};

use crate::support::asyncapi::{faults, judge, schema_of};

/// What says something to people and nothing to programs.
const ANNOTATIONS: [&str; 4] = ["description", "title", "examples", "$comment"];

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/it/golden"].iter().collect()
}

fn read(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder().join(name)).unwrap()).unwrap()
}

/// The schema of a type, as it was promised.
fn promised(kind: &str) -> Value {
    read(&format!("{kind}.schema.json"))
}

/// The schema of a type, as it is today.
fn today(kind: &str) -> Value {
    schema_of(kind, kind)
}

/// The type and the name of every file that has a message.
fn examples() -> Vec<(String, String)> {
    let names =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| !name.ends_with(".schema.json") && name != "asyncapi-3.0.0.json");
    let examples = names.map(|name| {
        let kind = name.trim_end_matches(".json").trim_end_matches(|c: char| c.is_ascii_digit());
        (kind.trim_end_matches('-').to_owned(), name)
    });
    examples.collect()
}

/// Why a reader of what was promised cannot read what is published, or today's reader not what was.
fn breaks(promised: &Value, today: &Value, at: &str) -> Vec<String> {
    let rules = |schema: &Value| {
        let mut rules = schema.as_object().unwrap().clone();
        rules.retain(|name, _| !["properties", "required"].contains(&name.as_str()));
        rules.retain(|name, _| !ANNOTATIONS.contains(&name.as_str()));
        rules
    };
    let required = |schema: &Value| -> BTreeSet<String> {
        let names = schema["required"].as_array().into_iter().flatten();
        names.map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let mut found = Vec::new();
    if rules(promised) != rules(today) {
        found.push(format!("{at}: {:?} was promised, not {:?}", rules(promised), rules(today)));
    }
    for name in required(promised).symmetric_difference(&required(today)) {
        found.push(format!("{at}/{name}: is it always there?"));
    }
    for (name, promised) in promised["properties"].as_object().into_iter().flatten() {
        match today["properties"].get(name) {
            Some(today) => found.extend(breaks(promised, today, &format!("{at}/{name}"))),
            None => found.push(format!("{at}/{name}: it is gone")),
        }
    }
    found
}

#[test]
fn every_type_has_an_example_and_a_promise() {
    let with_example: BTreeSet<String> = examples().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(with_example, KINDS.map(str::to_owned).into());
    let names =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let promised: BTreeSet<String> =
        names.filter_map(|name| Some(name.strip_suffix(".schema.json")?.to_owned())).collect();
    assert_eq!(promised, KINDS.map(str::to_owned).into());
}

#[test]
fn no_change_breaks_a_reader() {
    for kind in KINDS {
        assert_eq!(breaks(&promised(kind), &today(kind), kind), [""; 0], "make it a new version of the type");
    }
}

/// A field that is not in the files could later go again, and nobody would know. So the files have all.
#[test]
fn every_promise_is_recorded() {
    let records = env::var("INSTA_UPDATE").as_deref() == Ok("always");
    for kind in KINDS {
        let (file, today) = (folder().join(format!("{kind}.schema.json")), today(kind));
        if records && !file.exists() {
            fs::write(&file, format!("{today:#}\n")).unwrap();
        }
        let promised = promised(kind);
        if promised != today && records {
            assert_eq!(breaks(&promised, &today, kind), [""; 0]);
            fs::write(file, format!("{today:#}\n")).unwrap();
        } else {
            assert!(promised == today, "{kind}: record it, as the head of this file says");
        }
        let examples = examples().into_iter().filter(|(of, _)| of == kind).map(|(_, name)| read(&name));
        let fields: BTreeSet<String> = examples
            .flat_map(|message| {
                message["payload"]["data"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
            })
            .collect();
        let told = today["properties"]["payload"]["properties"]["data"]["properties"].as_object().unwrap();
        assert_eq!(fields, told.keys().cloned().collect(), "{kind}: add an example with all fields");
    }
}

/// Today's code reads what was published, field by field.
#[test]
fn every_example_is_read() {
    for (kind, name) in examples() {
        let payload = read(&name)["payload"].take();
        let event =
            Event::parse(1, &payload.to_string().into()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(event.kind, format!("coupon.{kind}.v1"), "{name}");
        let data = &payload["data"];
        let read = match &*kind {
            ISSUED => from_object::<Issued>(&event.data).map(|read| {
                json!({
                    "coupon_id": read.coupon_id, "campaign_id": read.campaign_id, "user_id": read.user_id,
                    "number": read.number, "merchant_id": read.merchant_id, "face_value": read.face_value,
                    "currency": read.currency, "settle_on": read.settle_on, "issued_at": data["issued_at"],
                    "expires_at": data["expires_at"],
                })
            }),
            REDEEMED | RESTORED => from_object::<CouponUsed>(&event.data).map(|read| {
                let mut told = changed(&read.change, data);
                told["order_ref"] = json!(read.order_ref);
                told["amount"] = json!(read.amount);
                told
            }),
            CANCELLED | EXPIRED => from_object::<CouponChanged>(&event.data).map(|read| changed(&read, data)),
            CAMPAIGN_OPENED | CAMPAIGN_CLOSED => from_object::<CampaignPhase>(&event.data).map(|read| json!(read)),
            CAMPAIGN_CHANGED => from_object::<CampaignChanged>(&event.data).map(|read| json!(read)),
            CAMPAIGN_SOLD_OUT => from_object::<CampaignSoldOut>(&event.data).map(|read| {
                json!({
                    "campaign_id": read.campaign_id, "merchant_id": read.merchant_id, "quantity": read.quantity,
                })
            }),
            other => panic!("say here how {other} is read"),
        };
        assert_eq!(&read.unwrap_or_else(|error| panic!("{name}: {error}")), data, "{name}");
    }
}

/// What every change of a coupon tells.
fn changed(read: &CouponChanged<'_>, data: &Value) -> Value {
    json!({
        "coupon_id": read.coupon_id, "campaign_id": read.campaign_id, "user_id": read.user_id, "nth": read.nth,
        "at": data["at"], "merchant_id": read.merchant_id, "face_value": read.face_value,
        "currency": read.currency, "settle_on": read.settle_on,
    })
}

/// Every example is what was promised, and what is promised today.
#[test]
fn every_example_fits_its_schema() {
    for (kind, name) in examples() {
        for schema in [promised(&kind), today(&kind)] {
            assert_eq!(faults(&judge(&schema), &read(&name)), [""; 0], "{name}");
        }
    }
}

/// Where a schema has a schema of its own: the root, and every property, as pointers.
fn parts(schema: &Value, at: &str) -> Vec<String> {
    let properties = schema["properties"].as_object().into_iter().flatten();
    let below = properties.flat_map(|(name, schema)| parts(schema, &format!("{at}/properties/{name}")));
    [at.to_owned()].into_iter().chain(below).collect()
}

/// Every change of every part of every schema that would break a reader, and those that break none.
#[test]
fn a_change_that_breaks_a_reader_is_found() {
    let with = |schema: &Value, at: &str, change: &dyn Fn(&mut Map<String, Value>)| {
        let mut schema = schema.clone();
        change(schema.pointer_mut(at).unwrap().as_object_mut().unwrap());
        schema
    };
    let mut seen = 0;
    for kind in KINDS {
        let schema = promised(kind);
        let mut breaking = Vec::new();
        for at in parts(&schema, "") {
            let part = schema.pointer(&at).unwrap();
            let other = if part["type"] == "string" { json!("integer") } else { json!("string") };
            for (name, value) in [
                ("type", other),
                ("type", json!([part["type"], "null"])),
                ("enum", json!(["a"])),
                ("const", json!("a")),
                ("pattern", json!("^a$")),
                ("minimum", json!(7)),
                ("maximum", json!(7)),
                ("maxLength", json!(7)),
                ("format", json!("uri")),
                ("additionalProperties", json!(false)),
            ] {
                breaking.push(with(&schema, &at, &|part| drop(part.insert(name.to_owned(), value.clone()))));
            }
            let rules = part.as_object().unwrap().keys().filter(|name| !ANNOTATIONS.contains(&name.as_str()));
            breaking.extend(rules.map(|rule| with(&schema, &at, &|part| drop(part.remove(rule)))));
            let Some(properties) = part["properties"].as_object() else { continue };
            for name in properties.keys() {
                breaking.push(with(&schema, &at, &|part| {
                    part["properties"].as_object_mut().unwrap().remove(name);
                }));
                breaking.push(with(&schema, &at, &|part| {
                    let properties = part["properties"].as_object_mut().unwrap();
                    let renamed = properties.remove(name).unwrap();
                    properties.insert(format!("{name}_2"), renamed);
                }));
                breaking.push(with(&schema, &at, &|part| {
                    // Optional if it is required, and else required.
                    let required = part["required"].as_array_mut().unwrap();
                    let before = required.len();
                    required.retain(|required| required != name);
                    if required.len() == before {
                        required.push(json!(name));
                    }
                }));
            }
            breaking.push(with(&schema, &at, &|part| {
                part["properties"]["new"] = json!({ "type": "string" });
                part["required"].as_array_mut().unwrap().push(json!("new"));
            }));
            let added = with(&schema, &at, &|part| part["properties"]["new"] = json!({ "type": "string" }));
            assert_eq!(breaks(&schema, &added, ""), [""; 0], "an optional field at {at} breaks none");
        }
        for changed in breaking.iter().filter(|changed| **changed != schema) {
            assert_ne!(breaks(&schema, changed, ""), [""; 0], "{changed:#}");
            seen += 1;
        }
        let reworded = with(&schema, "", &|part| drop(part.insert("description".to_owned(), json!("x"))));
        assert_eq!(breaks(&schema, &reworded, ""), [""; 0]);
    }
    assert!(seen > 500, "{seen} changes");
}
