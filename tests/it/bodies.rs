//! What the `OpenAPI` document says about requests is what the service takes: fields, limits, parameters.

use std::collections::BTreeSet;

use coupon_dispatcher::campaign::draft::DraftBody;
use coupon_dispatcher::http::parsers::claimant;
use coupon_dispatcher::http::routes;
use coupon_dispatcher::json::Rejected;
use hyper::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::asyncapi::judge;
use crate::support::contract::{document, resolve};
use crate::support::{Answer, World, draft};

/// The names of the members of an object.
fn names(object: &Value) -> BTreeSet<&str> {
    object.as_object().into_iter().flat_map(|object| object.keys().map(String::as_str)).collect()
}

/// What the service says about a field.
fn reason<'a>(answer: &'a Answer, field: &str) -> &'a str {
    let errors = answer.body["errors"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    let error = errors.iter().find(|error| error["field"] == field);
    error.and_then(|error| error["reason"].as_str()).unwrap_or_else(|| panic!("no {field}: {answer:?}"))
}

#[tokio::test]
async fn bodies_have_the_fields_that_the_service_reads() {
    let (world, document) = (World::start().await, document());
    let campaign = world.open_campaign(json!({})).await.to_string();
    for route in routes().filter(|route| route.writes()) {
        let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
        let schema = resolve(&document, &operation["requestBody"]["content"]["application/json"]["schema"]);
        let path = route.path.replace("{id}", &campaign);
        let refused = world.api().send(route.method.clone(), &path, r#"{"nope":1}"#).await;
        let known = reason(&refused, "nope").strip_prefix("is unknown: the fields are ");
        let known = known.into_iter().flat_map(|known| known.split(", "));
        assert_eq!(known.collect::<BTreeSet<_>>(), names(&schema["properties"]), "{path}");
        for name in schema["required"].as_array().into_iter().flatten() {
            let refused = world.api().post(&path, &json!({})).await;
            assert!(reason(&refused, name.as_str().unwrap()).contains("missing"), "{refused:?}");
        }
    }
    // And those that are not required may be missing.
    let schema = &document["components"]["schemas"]["NewCampaign"];
    let required: BTreeSet<_> =
        schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let mut least = draft(json!({}));
    least.as_object_mut().unwrap().retain(|name, _| required.contains(&**name) || name == "coupon_valid_for");
    assert_eq!(world.api().post("/v1/campaigns", &least).await.status, 201, "{least}");
    world.close().await;
}

/// At each limit and beyond, the document and the service say the same.
#[test]
fn limits_are_those_of_the_service() {
    let document = document();
    let is_at_fault = |result: Result<(), Rejected>, field: &str| {
        result.is_err_and(|rejected| rejected.problems.iter().any(|problem| problem.field == field))
    };
    let mut seen = 0;
    let mut agree = |schema: &str, field: &str, value: Value| {
        let about = resolve(&document, &document["components"]["schemas"][schema]["properties"][field]);
        let told = judge(about).is_valid(&value);
        let refused = if schema == "Claim" {
            let body = json!({ field: value }).to_string();
            is_at_fault(claimant(body.as_bytes()).map(drop), field)
        } else {
            let quantity = if field == "face_value" { 1 } else { 10 };
            let mut body = draft(json!({ "quantity": quantity }));
            body[field] = value.clone();
            let body = DraftBody::read(body.to_string().as_bytes());
            is_at_fault(body.and_then(|body| body.parse(OffsetDateTime::now_utc())).map(drop), field)
        };
        assert_eq!(told, !refused, "{schema} {field}: {value}");
        seen += 1;
        told
    };
    for field in ["face_value", "quantity", "per_user_limit"] {
        let about = &document["components"]["schemas"]["NewCampaign"]["properties"][field];
        let [least, most] = ["minimum", "maximum"].map(|name| about[name].as_i64().unwrap());
        let told = [least - 1, least, most, most + 1].map(|value| agree("NewCampaign", field, json!(value)));
        assert_eq!(told, [false, true, true, false], "{field}");
    }
    for (schema, field) in [("NewCampaign", "name"), ("NewCampaign", "merchant_id"), ("Claim", "user_id")] {
        let told: Vec<bool> =
            (0..300).map(|length| agree(schema, field, json!("x".repeat(length)))).collect();
        assert!(!told[0] && told[1] && !told[299], "{field} has no limit");
    }
    for (field, values) in [
        ("merchant_id", ["a b", "é", "~!"]),
        ("currency", ["EUR", "eur", "EURO"]),
        ("settle_on", ["redeem", "issue", "never"]),
    ] {
        for value in values {
            // SettleOn is a component of its own.
            let about =
                resolve(&document, &document["components"]["schemas"]["NewCampaign"]["properties"][field]);
            let told = judge(about).is_valid(&json!(value));
            let mut body = draft(json!({}));
            body[field] = json!(value);
            let read = DraftBody::read(body.to_string().as_bytes());
            let read = read.and_then(|body| body.parse(OffsetDateTime::now_utc())).map(drop);
            assert_eq!(told, !is_at_fault(read, field), "{field}: {value}");
        }
    }
    assert!(seen > 900, "{seen}");
}

/// Every integer, in the form in which it is written: a number without a fraction, exactly.
#[test]
fn an_integer_is_a_number_without_a_fraction() {
    let document = document();
    let fields = document["components"]["schemas"]["NewCampaign"]["properties"].as_object().unwrap();
    let integers: Vec<&String> =
        fields.iter().filter(|(_, about)| about["type"] == "integer").map(|(name, _)| name).collect();
    assert_eq!(integers.len(), 3, "{integers:?}");
    let [zeros, far] = ["0".repeat(100), "0".repeat(10_000)];
    for field in integers {
        let reason_of = |number: &str| {
            let body = draft(json!({ "quantity": 10, field: "number" })).to_string();
            let body = body.replace("\"number\"", number);
            let read =
                DraftBody::read(body.as_bytes()).and_then(|body| body.parse(OffsetDateTime::now_utc()));
            read.err().map(|rejected| rejected.problems)
        };
        for five in ["5", "5.0", "5e0", "0.5e1", "0.05E+2", "50e-1", "5000e-3", &format!("5.{zeros}")] {
            assert_eq!(reason_of(five), None, "{field}: {five}");
        }
        for fraction in [
            "5.00000000000000000000000001".to_owned(),
            "4.99999999999999999999999999".to_owned(),
            "1.5".to_owned(),
            "5e-1".to_owned(),
            "15e-1".to_owned(),
            "1e-400".to_owned(),
            "1e-99999999999999999999".to_owned(),
            format!("5.{far}1"),
        ] {
            let problems = reason_of(&fraction).unwrap_or_else(|| panic!("{field}: {fraction}"));
            let problems: Vec<_> =
                problems.iter().map(|problem| (&*problem.field, &*problem.reason)).collect();
            assert_eq!(problems, [(&**field, "must be an integer")], "{fraction}");
        }
        for beyond in [
            "0",
            "-0",
            "0e9",
            "-5.0",
            "1e30",
            "-1e30",
            "1e400",
            "1e99999999999999999999",
            "18446744073709551616",
        ] {
            let problems = reason_of(beyond).unwrap_or_else(|| panic!("{field}: {beyond}"));
            assert!(
                problems[0].field == *field && problems[0].reason.contains("1 to"),
                "{beyond}: {problems:?}"
            );
        }
    }
}

/// Each route takes the parameters of a query that the document gives it, and no other of the document's.
#[tokio::test]
async fn queries_have_the_parameters_that_the_service_takes() {
    let (world, document) = (World::start().await, document());
    let campaign = world.open_campaign(json!({})).await;
    let coupon = world.claim(campaign, "alice").await.body["id"].as_str().unwrap().to_owned();
    let all = document["components"]["parameters"].as_object().unwrap().values();
    let all: Vec<&Value> = all.filter(|parameter| parameter["in"] == "query").collect();
    assert_eq!(all.len(), 6, "{all:?}");
    for route in routes().filter(|route| route.method == Method::GET) {
        let is_of_coupon = route.path.starts_with("/v1/coupons/");
        let id = if is_of_coupon { coupon.clone() } else { campaign.to_string() };
        let path =
            route.path.replace("{id}", &id).replace("{user_id}", "alice").replace("{slug}", "not-open");
        let told = document["paths"][route.path]["get"]["parameters"].as_array().unwrap();
        let told: BTreeSet<&str> =
            told.iter().map(|one| resolve(&document, one)["name"].as_str().unwrap()).collect();
        for parameter in &all {
            let name = parameter["name"].as_str().unwrap();
            let example = &parameter["example"];
            let words = example.as_array().map_or_else(|| vec![example], |words| words.iter().collect());
            let text = |one: &Value| one.as_str().map_or_else(|| one.to_string(), str::to_owned);
            let example = words.into_iter().map(text).collect::<Vec<_>>().join(",");
            let answer = world.api().get(&format!("{path}?{name}={example}")).await;
            if told.contains(name) {
                assert_eq!(answer.status, 200, "{path}: {answer:?}");
            } else {
                assert_eq!(answer.status, 422, "{path}: {answer:?}");
                assert!(reason(&answer, name).contains("unknown"), "{answer:?}");
            }
        }
    }
    world.close().await;
}
